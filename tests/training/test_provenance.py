"""The commit of the code that a run was made with."""

import subprocess

from mirage_jax.training import provenance


def test_git_revision_of_a_clean_a_changed_and_no_repository(tmp_path):
    assert provenance.git_revision(tmp_path) == "unknown"
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
    run = dict(cwd=tmp_path, check=True, capture_output=True)
    subprocess.run([*git, "init"], **run)
    (tmp_path / "a").write_text("1")
    subprocess.run([*git, "add", "a"], **run)
    subprocess.run([*git, "commit", "-m", "a"], **run)
    revision = provenance.git_revision(tmp_path)
    assert len(revision) == 40
    (tmp_path / "a").write_text("2")
    assert provenance.git_revision(tmp_path) == revision + "+changes"


def test_a_changed_batch_is_named_with_what_it_does_to_the_data():
    before = {"geometry_training": {"batch_size": 4, "steps": 8}, "worlds": ["a"]}
    after = {"geometry_training": {"batch_size": 8, "steps": 9}, "worlds": ("a",)}
    batch, steps = provenance.changed_fields(before, after)
    assert batch.startswith("geometry_training.batch_size: 4 in the checkpoint, now 8; batches are")
    assert "init_from=" in batch
    assert steps == "geometry_training.steps: 8 in the checkpoint, now 9"
