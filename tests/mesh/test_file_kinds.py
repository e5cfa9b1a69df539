"""A file of every kind that `Mesh.read` takes: measures of the whole, of named boundaries, of
interfaces and regions.
"""

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest

from fvot import InputError, Mesh

pytestmark = pytest.mark.ranks

SCRIPT = Path(__file__).parents[2] / "meshes" / "make_examples.py"


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
    example = EXAMPLES[name]
    path = shared_folder / name
    ranks.on_root(example.write, path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        mesh = Mesh.read(path, strict=False)
    ones = np.ones(mesh.n_cells)
    own = mesh.face_owned
    assert mesh.integrate(ones) == pytest.approx(example.volume, rel=1e-7)
    assert measures(mesh, mesh.boundary, mesh.area, own) == pytest.approx(
        example.boundary, rel=1e-7
    )
    assert measures(mesh, mesh.interfaces, mesh.area, own) == pytest.approx(
        example.interfaces, rel=1e-7
    )
    assert measures(mesh, mesh.regions, mesh.volume, ones) == pytest.approx(
        example.regions, rel=1e-7
    )
    if ranks.is_root:
        messages = [
            text for message in said if "not admissible" not in (text := str(message.message))
        ]
        assert len(messages) == bool(example.warning) and all(
            example.warning in message for message in messages
        )


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name.lower().endswith(".msh")])
def test_what_is_left_of_a_file_is_not_read(name, ranks, tmp_path):
    """Cut off anywhere, a file is refused, or nothing that counts is missing."""
    if ranks.size > 1:
        pytest.skip("one rank reads the file")
    example = EXAMPLES[name]
    path = tmp_path / name
    example.write(path)
    whole = path.read_bytes()
    for length in np.linspace(0, len(whole), 60, endpoint=False, dtype=int):
        path.write_bytes(whole[:length])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                mesh = Mesh.read(path, strict=False)
            except InputError as error:
                assert "is the file complete?" in str(error)
            else:
                assert measures(
                    mesh, mesh.regions, mesh.volume, np.ones(mesh.n_cells)
                ) == pytest.approx(example.regions)
                assert measures(mesh, mesh.boundary, mesh.area, mesh.face_owned) == pytest.approx(
                    example.boundary
                )


@pytest.mark.parametrize(
    "name",
    [
        "ascii.vtu",
        "appended_raw.vtu",
        "lz4.vtu",
        "unstructured.vtk",
        "structured.vtk",
        "binary.vtk",
        "binary_4.2.vtk",
        "image.vti",
        "surface.vtp",
        "unstructured.vtkhdf",
        "by_meshio.xdmf",
    ],
)
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.8])
def test_what_is_left_of_other_files_is_not_read(name, kept, ranks, tmp_path):
    if ranks.size > 1:
        pytest.skip("one rank reads the file")
    path = tmp_path / name
    EXAMPLES[name].write(path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(InputError, match="is the file complete"):
        Mesh.read(path, strict=False)


def test_all_examples_can_be_made(tmp_path, one_rank_here, capsys):
    script().main(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= set(EXAMPLES)
    assert str(len(EXAMPLES)) in capsys.readouterr().out
