"""Sizes of a recurrent network and of its chunk, for tests of all of them."""

from hypothesis import given
from hypothesis import strategies as st

of_any_size = given(
    layers=st.integers(1, 3),
    steps=st.integers(1, 9),
    rows=st.integers(1, 5),
    features=st.integers(1, 6),
    size=st.integers(1, 40),
    seed=st.integers(0, 999),
)
