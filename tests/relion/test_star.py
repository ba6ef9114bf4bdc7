"""Names and metadata of external reconstructions, as RELION 3.1, 4.0 and 5.0 write them."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from relion_files import RATE, write_iteration

from deepemhancer_plugin.core.errors import InputError
from deepemhancer_plugin.core.relion.star import Name, parse_name, read_job

ROOTS = st.text(string.ascii_letters + string.digits + "_-./ ", min_size=1, max_size=40)


@given(
    ROOTS,
    st.integers(1, 12000),
    st.sampled_from([None, 1, 2]),
    st.sampled_from(["class", "body"]),
    st.integers(1, 1200),
)
def test_every_name_that_relion_makes_is_read_back(root, iteration, half, kind, number):
    middle = f"_half{half}" if half else ""
    name = parse_name(
        f"{root}_it{iteration:03d}{middle}_{kind}{number:03d}_external_reconstruct.star"
    )
    assert name == Name(root, iteration, half, kind, number)
    assert name.find_before("sampling.star") == f"{root}_it{iteration - 1:03d}_sampling.star"


@given(st.text(max_size=60))
def test_other_names_are_refused_in_one_line(text):
    try:
        parse_name(text)
    except InputError as error:
        assert "not the name of an external reconstruction" in str(error)
    else:
        assert text.endswith("_external_reconstruct.star")


@pytest.mark.parametrize(
    "path",
    [
        "run_it012_half3_class001_external_reconstruct.star",
        "run_it12_half1_class001_external_reconstruct.star",
        "_it012_half1_class001_external_reconstruct.star",
        "run_it012_half1_class01_external_reconstruct.star",
        "run_it012_half1_class001_external_reconstruct_out.star",
        "run_it000_half1_class001_external_reconstruct.star",
        "run_it012_half1_class001_external_reconstruct.star ",
        "",
        "run_class001.mrc",
    ],
)
def test_near_misses(path):
    with pytest.raises(InputError, match="not the name"):
        parse_name(path)


def test_root_that_looks_like_a_name_itself():
    name = parse_name(
        "Refine3D/job007_it003_half2_class001/run_ct5_it004_half1_class001_external_reconstruct.star"
    )
    assert (name.root, name.iteration, name.half) == (
        "Refine3D/job007_it003_half2_class001/run_ct5",
        4,
        1,
    )


@pytest.mark.parametrize("version", ["3.1", "4.0", "5.0"])
@pytest.mark.parametrize("half", [1, 2])
@pytest.mark.parametrize("kind", ["class001", "class002", "body002"])
def test_half_map(tmp_path, monkeypatch, version, half, kind):
    monkeypatch.chdir(tmp_path)
    star = write_iteration(tmp_path, version, half=half, kind=kind, order=5)
    job = read_job(star)
    assert (job.order, job.rate, job.box) == (5, RATE, 40)
    assert job.result == star.replace(".star", ".mrc") and job.result_star == star.replace(
        ".star", "_out.star"
    )


def test_pixel_size_is_the_star_files_where_it_has_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    star = write_iteration(tmp_path, "4.0", rate=1.1)
    (tmp_path / "out/run_it006_half1_model.star").write_text("")
    assert read_job(star).rate == 1.1


def test_pixel_size_of_3_1_is_this_halfs_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    star = write_iteration(tmp_path, "3.1", half=2, rate=3.54)
    (tmp_path / "out/run_it006_half1_model.star").unlink()
    assert read_job(star).rate == 3.54


@pytest.mark.parametrize("version", ["3.1", "4.0", "5.0"])
def test_joined_iteration_and_classification_need_no_metadata(tmp_path, monkeypatch, version):
    monkeypatch.chdir(tmp_path)
    star = write_iteration(tmp_path, version, half=None, kind="class003")
    for file in tmp_path.glob("out/run_it006*"):
        file.unlink()
    assert read_job(star).order is None


def test_halves_that_are_not_independent_and_2d_references_are_left_to_relion(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert read_job(write_iteration(tmp_path, split=0)).order is None
    assert read_job(write_iteration(tmp_path, rlnReferenceDimensionality=2)).order is None


def test_continued_under_another_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_iteration(tmp_path, root="out/run", iteration=7, order=2)
    star = write_iteration(tmp_path, root="out/run_ct7", iteration=8, order=4)
    assert read_job(star).order == 4


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("out/run_it006_sampling.star", None, "run_it006_sampling.star: no such file"),
        ("out/run_it006_optimiser.star", None, "run_it006_optimiser.star: no such file"),
        ("out/run_it006_half1_model.star", None, "half1_model.star: no such file"),
        (
            "out/run_it006_sampling.star",
            ("rlnHealpixOrder ", "rlnOther "),
            "has no rlnHealpixOrder",
        ),
        (
            "out/run_it006_sampling.star",
            ("           4", "        four"),
            "rlnHealpixOrder is 'four'",
        ),
        ("out/run_it006_half1_model.star", ("1.5", "0.0"), "between 0.2 and 50"),
        ("out/run_it006_half1_model.star", ("1.5", "nan"), "between 0.2 and 50"),
        (
            "out/run_it006_optimiser.star",
            ("data_optimiser_general", "data_other"),
            "does not begin with the list data_optimiser_general",
        ),
        (
            "out/run_it007_half1_class001_external_reconstruct.star",
            ("_rlnExtReconsResult ", "_rlnX "),
            "has no rlnExtReconsResult",
        ),
        ("out/run_it007_half1_class001_external_reconstruct.star", None, "no such file"),
    ],
)
def test_missing_and_damaged_metadata(tmp_path, monkeypatch, file, change, words):
    monkeypatch.chdir(tmp_path)
    star = write_iteration(tmp_path)
    path = tmp_path / file
    if change is None:
        path.unlink()
    else:
        assert change[0] in path.read_text()
        path.write_text(path.read_text().replace(*change))
    with pytest.raises(InputError, match=words) as caught:
        read_job(star)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff\xfe" * 100,
        b"data_\nloop_\n",
        b"data_external_reconstruct_general\nloop_\n_a #1\n_b #2\n1\n",
    ],
)
def test_star_files_that_are_none(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    star = write_iteration(tmp_path)
    (tmp_path / star).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_job(star)
    assert star in str(caught.value) and "\n" not in str(caught.value)
