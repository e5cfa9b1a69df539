"""A file of every kind that `Mesh.read` takes: measures of the whole, of named boundaries, of interfaces and regions."""
import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest

from fvot import Mesh

pytestmark = pytest.mark.ranks

SCRIPT = Path(__file__).parent.parent / "meshes" / "make_examples.py"


def script():
    spec = importlib.util.spec_from_file_location("make_examples", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EXAMPLES = script().EXAMPLES


def measures(mesh, parts, measure, own):
    """{name: measure} over all ranks."""
    return {name: mesh.ranks.sum((measure * own)[members].sum()) for name, members in parts.items()}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_kind_of_file(name, ranks, shared_folder):
    if ranks.size > 1 and list(EXAMPLES).index(name) % 5:
        pytest.skip("others stand for it")
    example, path = EXAMPLES[name], shared_folder / name
    ranks.on_root(example.write, path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        mesh = Mesh.read(path, strict=False)
    ones, own = np.ones(mesh.n_cells), mesh.face_owned
    assert mesh.integrate(ones) == pytest.approx(example.volume, rel=1e-7)
    assert measures(mesh, mesh.boundary, mesh.area, own) == pytest.approx(example.boundary, rel=1e-7)
    assert measures(mesh, mesh.interfaces, mesh.area, own) == pytest.approx(example.interfaces, rel=1e-7)
    assert measures(mesh, mesh.regions, mesh.volume, ones) == pytest.approx(example.regions, rel=1e-7)
    if ranks.is_root:
        messages = [text for message in said if "not admissible" not in (text := str(message.message))]
        assert len(messages) == bool(example.warning) and all(example.warning in message for message in messages)
