from .solver import JKO
