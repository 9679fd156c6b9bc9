import doctest

from ncgn_jax import process


def test_worked_example_of_the_notation_page():
    result = doctest.testmod(process)
    assert result.attempted >= 7
    assert result.failed == 0
