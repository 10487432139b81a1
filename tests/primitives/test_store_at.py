"""Laws of two tensors in one buffer.

Bugs the author planted, and what caught each:
- the guest put at the first slice: `test_every_element_has_a_cell`;
- its slice also the host's (`<=`), or neither's (`>`), the validity of the joined tensor or the
  guest's own left out: `test_every_cell_is_of_the_host_or_of_the_guest_or_fill`;
- the slice added before the host: `test_the_host_is_stored_by_an_ordinary_layout`;
- steps checked against the host only, so that an unpad cuts the guest off:
  `test_the_guests_slice_is_not_cut_off_with_the_padding`.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import tirx

from primitives.errors import LayoutError
from primitives.layout import Layout
from primitives.reference import pack, pack_joint, unpack_joint
from primitives.steps import Step
from primitives.store_at import Joint, decouple_at, store_at
from tests.primitives.chains import ARBITRARY_STEPS, at, cells, evaluate, joints, numbered

FILL, FIRST_OF_GUEST = -7, 10_000


def arrays(joint: Joint) -> tuple[np.ndarray, np.ndarray]:
    """A host and a guest whose elements all differ."""
    return numbered(joint.host.logical_shape), numbered(joint.guest.logical_shape, FIRST_OF_GUEST)


@given(joints())
def test_unpack_undoes_pack(joint: Joint) -> None:
    host, guest = arrays(joint)
    found = unpack_joint(pack_joint(host, guest, joint), joint)
    np.testing.assert_array_equal(found[0], host)
    np.testing.assert_array_equal(found[1], guest)


@given(joints())
def test_every_cell_is_of_the_host_or_of_the_guest_or_fill(joint: Joint) -> None:
    host, guest = arrays(joint)
    stored = pack_joint(host, guest, joint, FILL)
    assert stored.shape == joint.shape
    for cell in cells(joint.shape):
        of_host, is_host, of_guest, is_guest = joint.inverse(cell)
        assert not (is_host and is_guest)
        if is_host:
            assert stored[cell] == host[tuple(of_host)]
        elif is_guest:
            assert stored[cell] == guest[tuple(of_guest)]
        else:
            assert stored[cell] == FILL


@given(joints())
def test_every_element_has_a_cell(joint: Joint) -> None:
    host, guest = arrays(joint)
    stored = pack_joint(host, guest, joint, FILL)
    for forward, array in ((joint.host_forward, host), (joint.guest_forward, guest)):
        for index in cells(array.shape):
            cell = tuple(forward(index))
            assert all(0 <= i < d for i, d in zip(cell, joint.shape, strict=True))
            assert stored[cell] == array[index]


@given(joints())
def test_the_host_is_stored_by_an_ordinary_layout(joint: Joint) -> None:
    host, guest = arrays(joint)
    alone = pack(host, joint.host_layout, FILL)
    stored = pack_joint(host, guest, joint, FILL)
    np.testing.assert_array_equal(alone, np.where(stored >= FIRST_OF_GUEST, FILL, stored))


@given(joints())
def test_arrays_of_indices_behave_like_ints(joint: Joint) -> None:
    of_host, is_host, of_guest, is_guest = joint.inverse(list(np.indices(joint.shape)))
    for cell in cells(joint.shape):
        found = (
            [at(i, cell) for i in of_host],
            at(is_host, cell),
            [at(i, cell) for i in of_guest],
            at(is_guest, cell),
        )
        assert found == joint.inverse(cell)
    stored = joint.guest_forward(list(np.indices(joint.guest.logical_shape)))
    for index in cells(joint.guest.logical_shape):
        assert [at(i, index) for i in stored] == joint.guest_forward(index)


@settings(max_examples=40)
@given(joints(), st.data())
def test_expressions_behave_like_ints(joint: Joint, data: st.DataObject) -> None:
    axes = [tirx.Var(f"s{k}", "int32") for k in range(len(joint.shape))]
    cell = tuple(data.draw(st.integers(0, extent - 1)) for extent in joint.shape)
    values = dict(zip(axes, cell, strict=True))
    of_host, is_host, of_guest, is_guest = joint.inverse(axes)
    found = (
        [evaluate(i, values) for i in of_host],
        bool(evaluate(is_host, values)),
        [evaluate(i, values) for i in of_guest],
        bool(evaluate(is_guest, values)),
    )
    assert found == joint.inverse(cell)
    axes = [tirx.Var(f"g{k}", "int32") for k in range(len(joint.guest.logical_shape))]
    index = tuple(data.draw(st.integers(0, extent - 1)) for extent in joint.guest.logical_shape)
    values = dict(zip(axes, index, strict=True))
    assert [evaluate(i, values) for i in joint.guest_forward(axes)] == joint.guest_forward(index)


@given(joints())
def test_text_parses_back(joint: Joint) -> None:
    again = Joint.parse(str(joint))
    assert again == joint
    assert hash(again) == hash(joint)


@given(st.text(alphabet="0123456789x ,()+at-padunfol", max_size=30))
def test_arbitrary_text_is_a_joint_or_refused(text: str) -> None:
    try:
        joint = Joint.parse(text)
    except LayoutError:
        return
    assert Joint.parse(str(joint)) == joint


@settings(max_examples=200)
@given(joints(), ARBITRARY_STEPS)
def test_an_arbitrary_step_loses_no_element(joint: Joint, step: Step) -> None:
    try:
        longer = joint.apply(step)
    except LayoutError:
        return
    host, guest = arrays(joint)
    found = unpack_joint(pack_joint(host, guest, longer), longer)
    np.testing.assert_array_equal(found[0], host)
    np.testing.assert_array_equal(found[1], guest)


@given(joints())
def test_decouple_at_undoes_store_at(joint: Joint) -> None:
    host, guest = decouple_at(joint)
    assert store_at(host, guest, joint.axis) == Joint(host, guest, joint.axis)
    assert (host, guest) == (joint.host, joint.guest)


def test_the_guests_slice_is_not_cut_off_with_the_padding() -> None:
    joint = store_at(Layout.identity((3, 4)), Layout.identity((4,)), 0)
    with pytest.raises(LayoutError, match="only its first 0 and last 0 cells"):
        joint.unpad(0, 0, 1)
    assert joint.pad(0, 0, 4).unpad(0, 0, 4) == joint


def test_unfold_copies_the_guest_too() -> None:
    joint = Joint.parse("3x1 + 1 at 0 unfold(0,3,1) reorder(1,0,2)")
    stored = pack_joint(np.array([[1], [2], [3]]), np.array([9]), joint)
    assert stored[..., 0].tolist() == [[1, 2], [2, 3], [3, 9]]


REFUSALS = [
    (
        (Layout((3, 4)), Layout((3,)), 0),
        (
            "store 3 at axis 0 of 3x4: a slice of 3x4 is 4, and the guest is stored as 3; "
            "lay it out as 4"
        ),
    ),
    (
        (Layout((3, 4)), Layout((4,)), 2),
        "store 4 at axis 2 of 3x4: that is stored as 3x4, which has no axis 2; use 0 to 1",
    ),
    (
        (Layout(()), Layout(()), 0),
        (
            "store scalar at axis 0 of scalar: that is stored as scalar, which has no axis 0; "
            "a scalar takes no guest"
        ),
    ),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSALS)
def test_errors_say_what_to_do(arguments: tuple[Layout, Layout, int], message: str) -> None:
    with pytest.raises(LayoutError) as caught:
        store_at(*arguments)
    assert str(caught.value) == message


def test_arrays_of_other_shapes_and_dtypes_are_refused() -> None:
    joint = Joint.parse("3x4 + 4 at 0")
    host, guest = np.zeros((3, 4), "float32"), np.zeros(4, "float32")
    with pytest.raises(LayoutError, match="float32 and float64"):
        pack_joint(host, guest.astype("float64"), joint)
    with pytest.raises(LayoutError, match=r"shape \(3,\)"):
        pack_joint(host, guest[:3], joint)
    with pytest.raises(LayoutError, match=r"shape \(3, 4\)"):
        unpack_joint(host, joint)
