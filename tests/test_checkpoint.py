"""Checkpoints: what goes in comes out bit for bit, and no damaged file is ever believed."""

import json
import math
import os
import struct
import sys
import types
from collections import OrderedDict
from hashlib import sha256

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import fp16sim as fs
from fp16sim import checkpoint
from fp16sim.checkpoint import CheckpointError, load, save

ARRAYS = st.sampled_from(checkpoint.DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=3))
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**200), 2**200)
    | st.floats()
    | st.integers(0, 2**64 - 1).map(lambda word: struct.unpack("<d", struct.pack("<Q", word))[0])
    | st.text()
    | ARRAYS
)
#: keys that ask for trouble: dots, what stands for other things in the file, anything
KEYS = st.sampled_from(["a", "b", "a.b", "a.b'", "", "0", "array", "dict", "__metadata__"])
STATES = st.recursive(
    LEAVES,
    lambda below: (
        st.lists(below, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), below, max_size=4)
    ),
    max_leaves=12,
)


def assert_identical(actual, expected):
    """Equal in structure, types, order and bits."""
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key in expected:
            assert_identical(actual[key], expected[key])
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_identical(one, other)
    elif isinstance(expected, np.ndarray):
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
        assert actual.tobytes() == expected.tobytes()
    elif isinstance(expected, float):
        assert struct.pack("<d", actual) == struct.pack("<d", expected)
    else:
        assert actual == expected


def small_state():
    return {"weight": np.float16([1, -0.0]), "step": 7, "scale": 2.0**16, "rng": [2**127 + 1]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.fp16"


@pytest.fixture
def saved(path):
    save(path, small_state())
    return path


class TestRoundTrip:
    @settings(max_examples=100)
    @given(state=STATES)
    def test_any_state(self, tmp_path_factory, state):
        path = tmp_path_factory.getbasetemp() / "round trip"
        save(path, state)
        assert_identical(load(path), state)

    def test_nan_payloads_and_signs_of_zero(self, path):
        words = np.uint32([0x7F800001, 0xFFC12345, 0x80000000])  # signalling, negative; -0
        state = {"array": words.view(np.float32), "nan": math.copysign(math.nan, -1), "zero": -0.0}
        state["signalling"] = struct.unpack("<d", struct.pack("<Q", 0xFFF0000000000001))[0]
        save(path, state)
        assert load(path)["array"].view(np.uint32).tolist() == words.tolist()
        assert_identical(load(path), state)

    @pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.Philox])
    def test_a_generator_goes_on_where_it_was(self, path, kind):
        before, after = np.random.Generator(kind(5)), np.random.Generator(kind(6))
        before.standard_normal(7)
        save(path, before.bit_generator.state)
        after.bit_generator.state = load(path)
        assert after.standard_normal(9).tolist() == before.standard_normal(9).tolist()

    def test_an_integer_with_more_digits_than_python_would_print(self, path):
        save(path, 7**9999)
        assert load(path) == 7**9999

    def test_tuples_become_lists(self, path):
        save(path, {"betas": (0.9, (1, np.ones(1)))})
        assert_identical(load(path), {"betas": [0.9, [1, np.ones(1)]]})

    def test_arrays_of_any_layout(self, path):
        grid = np.arange(24.0).reshape(4, 6)
        layouts = [
            grid.T,
            grid[::-2, ::3],
            np.broadcast_to(grid[0], (3, 6)),
            np.asfortranarray(grid),
        ]
        save(path, layouts)
        assert_identical(load(path), layouts)

    def test_loaded_arrays_may_be_written_to(self, saved):
        load(saved)["weight"] += 1

    def test_two_arrays_of_one_path(self, path):
        state = {"a": {"b": np.ones(1)}, "a.b": np.zeros(2), "a.b'": np.zeros(3)}
        state["__metadata__"] = np.zeros(4)  # a name that is safetensors' own
        save(path, state)
        assert_identical(load(path), state)

    def test_other_tools_find_the_arrays_by_path(self, path):
        save(path, {"model": {"0.weight": np.ones(2)}, "history": [1, np.zeros(1)]})
        assert set(safetensors.numpy.load_file(path)) == {"model.0.weight", "history.1"}

    def test_paths_may_be_strings_and_files_may_be_replaced(self, saved):
        save(str(saved), [1])
        assert load(str(saved)) == [1]


class TestRefusedStates:
    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (Ellipsis, "is of type ellipsis; allowed are dict, list"),
            (b"bytes", "is of type bytes"),
            ({1, 2}, "is of type set"),
            (1j, "is of type complex"),
            (np.float32(1), "is of type float32"),
            (np.float64(1), "is of type float64"),
            (OrderedDict(), "is of type OrderedDict"),
            (fs.Tensor([1.0]), "is of type Tensor"),
            (np.ma.masked_array([1.0], [True]), "is of type MaskedArray"),
            (np.zeros(2, complex), "has dtype complex128; allowed are float16, float32"),
            (np.zeros(2, object), "has dtype object"),
            (np.zeros(2, ">f4"), "has dtype >f4"),
            (np.zeros(2, "U3"), "has dtype <U3"),
            ({3: 1}, r"has the key 3; allowed are plain strings"),
            ({"\ud800": 1}, r"has the key '\\ud800'"),
            ("\ud83d", "is .*, which is no valid Unicode"),
        ],
        ids=repr,
    )
    def test_named_by_their_path_before_anything_is_written(self, saved, value, message):
        before = saved.read_bytes()
        with pytest.raises(TypeError, match=r"^state\.model\.1\.w " + message):
            save(saved, {"model": [np.ones(3), {"w": value}]})
        assert saved.read_bytes() == before
        assert list(saved.parent.iterdir()) == [saved]

    def test_the_state_itself(self, path):
        with pytest.raises(TypeError, match=r"^state is of type object"):
            save(path, object())

    def test_gpu_arrays(self, path, monkeypatch):
        class OnGpu:
            pass

        monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(ndarray=OnGpu))
        with pytest.raises(TypeError, match=r"^state\.w is an array on the GPU; .*\.get\(\)"):
            save(path, {"w": OnGpu()})

    def test_a_state_that_contains_itself(self, path):
        state = {}
        state["again"] = [state]
        with pytest.raises(ValueError, match=r"state\.again\.0\.again.* levels deep, or in itself"):
            save(path, state)

    def test_as_deep_as_is_allowed(self, path):
        state = 1
        for _ in range(100):
            state = [state]
        save(path, state)
        assert load(path) == state
        with pytest.raises(ValueError, match="more than 100 levels"):
            save(path, [state])

    def test_a_header_that_could_not_be_read_again(self, path, monkeypatch):
        monkeypatch.setattr(checkpoint, "_LONGEST_HEADER", 2000)
        save(path, [1] * 800)
        with pytest.raises(ValueError, match="too much outside of arrays"):
            save(path, [1] * 1000)


class TestDamage:
    def refused(self, path, raw):
        path.write_bytes(raw)
        with pytest.raises(CheckpointError) as caught:
            load(path)
        return str(caught.value)

    def test_cut_anywhere(self, saved):
        raw = saved.read_bytes()
        for length in range(1, len(raw)):
            assert "damaged or cut short" in self.refused(saved, raw[:length])
        assert "is empty" in self.refused(saved, b"")

    def test_any_byte_changed_in_one_bit_or_all(self, saved):
        """In a newer layout's number it is refused too, for another reason."""
        raw = saved.read_bytes()
        for position in range(len(raw)):
            for mask in (1 << position % 8, 255):
                changed = bytearray(raw)
                changed[position] ^= mask
                self.refused(saved, bytes(changed))

    def test_something_appended(self, saved):
        for more in (b"\0", b"\n", b"x" * 64):
            self.refused(saved, saved.read_bytes() + more)

    def test_two_parts_of_the_data_exchanged(self, path):
        save(path, [np.arange(2)])
        raw = path.read_bytes()
        assert "checksum" in self.refused(path, raw[:-16] + raw[-8:] + raw[-16:-8])

    @pytest.mark.parametrize("raw", [b"\x80\x04N.", b"\x02" + b"\0" * 7 + b"[]", b"x" * 500])
    def test_no_safetensors(self, path, raw):
        message = self.refused(path, raw)
        assert str(path) in message
        assert "no checkpoint" in message

    def test_foreign_safetensors(self, path):
        for metadata in (None, {"format": "pt"}):
            safetensors.numpy.save_file({"w": np.ones(3)}, path, metadata)
            with pytest.raises(CheckpointError, match="has no entry 'fp16sim'; read its arrays"):
                load(path)

    def test_missing(self, path):
        with pytest.raises(FileNotFoundError, match=r"run\.fp16"):
            load(path)

    def test_path_of_another_type(self):
        for call in (load, lambda path: save(path, 1)):
            with pytest.raises(TypeError, match=r"path must be a string or a .*Path, got 3"):
                call(3)


def forged(path, **changes):
    """A file with a right checksum whose JSON document somebody else wrote."""
    blank = "0" * 64
    document = {"sha256": blank, "layout": 1, "fp16sim": "9.8", "state": None} | changes
    arrays = {"w": np.ones(1, np.float32)}
    raw = safetensors.numpy.save(arrays, {"fp16sim": json.dumps(document)})
    path.write_bytes(raw.replace(blank.encode(), sha256(raw).hexdigest().encode(), 1))


class TestForged:
    def test_the_forger_is_able(self, path):
        forged(path, state={"dict": {"x": {"array": "w"}}})
        assert_identical(load(path), {"x": np.ones(1, np.float32)})

    def test_a_newer_layout(self, path):
        forged(path, layout=2)
        with pytest.raises(CheckpointError, match=r"fp16sim 9\.8 in layout 2, .* upgrade fp16sim"):
            load(path)

    @pytest.mark.parametrize("layout", [0, -1, True, "1", None, 1.5])
    def test_no_layout(self, path, layout):
        forged(path, layout=layout)
        with pytest.raises(CheckpointError, match="fp16sim did not write it: layout="):
            load(path)

    @pytest.mark.parametrize(
        "state",
        [
            {},
            {"array": "v"},
            {"array": ["w"]},
            {"array": "w", "dict": {}},
            {"dict": [1]},
            {"dict": {"x": {"pickle": "gASVAAA="}}},
            {"float": "7ff8"},
            {"float": 3},
            {"int": "x"},
            {"int": [1]},
        ],
        ids=repr,
    )
    def test_wrong_types(self, path, state):
        forged(path, state=state)
        with pytest.raises(CheckpointError, match=r"run\.fp16: fp16sim did not write it"):
            load(path)

    @pytest.mark.parametrize("text", ["[]", "3", "null", "{", "[" * 100_000])
    def test_another_document(self, path, text):
        safetensors.numpy.save_file({}, path, {"fp16sim": text})
        with pytest.raises(CheckpointError, match="or no checkpoint at all"):
            load(path)


class TestWriting:
    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
    @pytest.mark.parametrize("function", ["replace", "fsync"])
    def test_a_writer_that_dies_leaves_the_old_file_and_nothing_else(
        self, saved, monkeypatch, function, error
    ):
        def dies(*_):
            assert len(list(saved.parent.iterdir())) == 2, "the temporary file is elsewhere"
            raise error

        monkeypatch.setattr(os, function, dies)
        with pytest.raises(type(error)):
            save(saved, {"other": np.zeros(1000)})
        assert list(saved.parent.iterdir()) == [saved]
        assert_identical(load(saved), small_state())

    def test_the_file_is_on_disk_before_it_has_its_name_and_the_name_after(self, path, monkeypatch):
        done = []
        fsync, replace = os.fsync, os.replace

        def noted_fsync(descriptor):
            is_directory = os.path.isdir(f"/proc/self/fd/{descriptor}")  # noqa: PTH112
            size = None if is_directory else os.fstat(descriptor).st_size
            done.append(("fsync", size))
            fsync(descriptor)

        def noted_replace(source, target):
            done.append(("replace", os.fspath(target)))
            replace(source, target)

        monkeypatch.setattr(os, "fsync", noted_fsync)
        monkeypatch.setattr(os, "replace", noted_replace)
        save(path, small_state())
        assert done == [
            ("fsync", path.stat().st_size),
            ("replace", str(path)),
            ("fsync", None),
        ]

    def test_stale_temporaries_do_not_matter(self, saved):
        stale = saved.parent / ".fp16sim-0123456789abcdef.tmp"
        stale.write_bytes(b"half a file")
        save(saved, [2])
        assert load(saved) == [2]
        assert stale.read_bytes() == b"half a file"

    def test_a_temporary_that_is_there_already_is_not_written_over(self, saved, monkeypatch):
        monkeypatch.setattr("secrets.token_hex", lambda _: "taken")
        taken = saved.parent / ".fp16sim-taken.tmp"
        taken.write_bytes(b"of another writer")
        with pytest.raises(FileExistsError, match=r"cannot write the checkpoint .*run\.fp16"):
            save(saved, [2])
        assert_identical(load(saved), small_state())
        assert taken.read_bytes() == b"of another writer"

    def test_missing_directory(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no directory .*nowhere; make it"):
            save(tmp_path / "nowhere" / "run", 1)

    def test_a_directory(self, tmp_path):
        with pytest.raises(IsADirectoryError, match="is a directory; name a file in it"):
            save(tmp_path, 1)
        assert list(tmp_path.iterdir()) == []

    def test_no_permission(self, saved, monkeypatch):
        """By hand, as nothing is forbidden to root."""

        def forbidden(*_):
            raise PermissionError(13, "Permission denied", ".fp16sim-1.tmp")

        monkeypatch.setattr("pathlib.Path.open", forbidden)
        expected = r"cannot write the checkpoint .*run\.fp16: Permission denied"
        with pytest.raises(PermissionError, match=expected):
            save(saved, 1)

    def test_a_link_stays_a_link(self, saved):
        link = saved.parent / "latest"
        link.symlink_to(saved)
        save(link, [3])
        assert link.is_symlink()
        assert load(saved) == [3]

    def test_others_may_read_it_as_any_new_file(self, saved):
        plain = saved.parent / "plain"
        plain.write_bytes(b"")
        assert saved.stat().st_mode == plain.stat().st_mode
