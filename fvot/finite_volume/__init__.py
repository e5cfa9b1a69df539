"""The parts that the equations share: two-point fluxes, the boundary, rates of exchange between
cells, gradients, implicit steps.
"""
