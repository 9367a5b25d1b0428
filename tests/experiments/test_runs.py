"""Runs that exist, compared and asked in SQL, through the command."""

import json

import pytest


def write_run(folder, seed, loss, **model):
    folder.mkdir(parents=True)
    config = {"seed": seed, "model": {"name": "gpt", **model}, "checkpoint": {"best": "validation/loss"}}
    (folder / "config.json").write_text(json.dumps(config))
    rows = [{"step": step, "train/loss": loss + 1 / step, "validation/loss": loss} for step in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "results.json").write_text(json.dumps({"validation/loss": loss, "test/loss": loss + 0.5}))
    (folder / "timing.json").write_text(json.dumps({"seconds": 10.0 * seed}))


@pytest.fixture
def folder(tmp_path):
    for seed in range(4):
        write_run(tmp_path / "runs/narrow" / f"seed_{seed}", seed, 2.0 + 0.01 * seed, width=8)
        write_run(tmp_path / "runs/wide" / f"seed_{seed}", seed, 1.5 + 0.01 * seed + 0.001 * (seed % 2), width=16)
    return tmp_path / "runs"


def test_groups_of_seeds_get_a_verdict(folder, run):
    done = run("runs", "compare", folder / "narrow", folder / "wide")
    assert done.code == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert (
        "model.width 8 16" in text
        and "model.name" not in text
        and "seed " not in text.split("results")[0].split("config")[1]
    )
    assert "validation/loss 2.015 ± 0.013 (4 runs) 1.51" in text
    assert "clearly lower" in text and "a difference of -0.49" in text
    one = run("runs", "compare", folder / "narrow", folder / "wide", "--metric=test/loss")
    assert "test/loss 2.515" in " ".join(one.stdout.split()) and "validation/loss" not in one.stdout


def test_single_runs_get_none(folder, run):
    done = run("runs", "compare", folder / "narrow/seed_0", folder / "wide/seed_3")
    text = " ".join(done.stdout.split())
    assert done.code == 0 and "seed 0 3" in text and "test/loss 2.5 2.03" in text
    assert "A single run says nothing about chance" in text and "clearly" not in text


def test_sql_over_all_runs(folder, run):
    (folder / "narrow/seed_0/results.json").unlink()  # its last validation counts
    sql = "select c.value as width, count(*) as n, round(avg(r.value), 2) as loss"
    sql += " from config c join results r using (run) where c.path = 'model.width'"
    sql += " and r.metric = 'validation/loss' group by width order by loss"
    done = run("runs", "query", sql, f"--folder={folder}", "--format=jsonl")
    assert done.code == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"width": "16", "n": 4, "loss": 1.52},
        {"width": "8", "n": 4, "loss": 2.02},
    ]
    sql = "select run, state, seconds from runs where seed = 2 order by run"
    done = run("runs", "query", sql, f"--folder={folder}", "--format=csv")
    assert done.stdout.splitlines() == ["run,state,seconds", "narrow/seed_2,finished,20.0", "wide/seed_2,finished,20.0"]
    done = run("runs", "query", "select max(step) as last from metrics", f"--folder={folder}")
    assert done.stdout.split() == ["last", "2"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("query", "drop table runs"),
            "not a SELECT over the tables runs, results, metrics and config: not authorized",
        ),
        (("query", "attach '{folder}/new.db' as other"), "not authorized"),
        (("query", "select nobody from runs"), "no such column: nobody"),
        (("query", "select 1; select 2"), "one statement at a time"),
        (("query", "select 1", "--folder={folder}/nowhere"), "there is no folder"),
        (("query", "with recursive n(i) as (select 1 union select i + 1 from n) select i from n"), "more than 10,000"),
        (("compare", "{folder}/narrow"), "are not two different folders: give two or more"),
        (("compare", "{folder}/narrow", "{folder}/nowhere"), "holds neither a sweep nor finished runs"),
        (
            ("compare", "{folder}/narrow", "{folder}/wide", "--metric=test/los"),
            "nobody measured test/los: did you mean",
        ),
    ],
)
def test_what_makes_no_sense_is_one_sentence(arguments, sentence, folder, run):
    words = [word.format(folder=folder) for word in arguments]
    if words[0] == "query" and not any(word.startswith("--folder") for word in words):
        words.append(f"--folder={folder}")
    done = run("runs", *words)
    assert done.code == 2 and sentence in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (folder / "new.db").exists()
