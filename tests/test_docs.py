"""The complete examples of the documentation: the pages quote these files, and they do what the pages say."""

import json
import re
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import load
from research.errors import UserError
from research.parallel.sharding import partition_specs
from tests.with_examples import EXAMPLES, example

ROOT = Path(__file__).resolve().parent.parent
PAPER = {"patch_size": 4, "width": 256, "num_layers": 7, "num_heads": 4, "mlp_width": 512}
"""CVT-7/4 of table 1 of Hassani et al. 2021, on images of 32 x 32 pixels."""


@pytest.fixture(scope="module")
def command():
    """`command("train", "--config=...")` with the examples in their places."""

    def launch(*arguments: str) -> str:
        words = [sys.executable, "-m", "tests.with_examples", *arguments]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return launch


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("new_model", "cvt"),
        ("new_model", "cvt_config"),
        ("new_task", "tagging"),
        ("new_task", "tagging_config"),
        ("fine_tuning", "fine_tuning"),
        ("attention", "attention"),
    ],
)
def test_the_page_quotes_the_file(page, name):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL)
    assert (EXAMPLES / f"{name}.py").read_text() in blocks


def test_the_model_has_the_published_parameters_and_pools_by_learned_weights():
    model, images = example("cvt").CVT(10, **PAPER), jnp.zeros((1, 32, 32, 3))
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6 == pytest.approx(3.72, abs=0.005)

    model = model.clone(num_classes=0, num_layers=1, width=8, mlp_width=8)
    images = jax.random.normal(jax.random.key(1), images.shape)
    variables = model.init(jax.random.key(0), images)
    pooled, inside = model.apply(variables, images, capture_intermediates=True, mutable=["intermediates"])
    (tokens,) = np.float64(inside["intermediates"]["encoder"]["__call__"])
    pool = jax.tree.map(np.float64, variables["params"]["pool"])
    scores = np.exp(tokens @ pool["kernel"] + pool["bias"])
    np.testing.assert_allclose(pooled, (scores / scores.sum(1, keepdims=True) * tokens).sum(1), atol=1e-5)


def test_the_model_needs_the_sharding_rule_that_its_config_gives():
    model, images = example("cvt").CVT(10, **PAPER), jnp.zeros((1, 32, 32, 3))
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    mesh = types.SimpleNamespace(shape={"data": 1, "fsdp": 8, "tensor": 1, "sequence": 1})
    with pytest.raises(UserError, match="parameter pool/bias matches no sharding rule"):
        partition_specs(params, mesh, {})
    rules = load(str(EXAMPLES / "cvt_config.py")).mesh.rules
    assert partition_specs(params, mesh, dict(rules))["pool/kernel"] == jax.P("fsdp", None)


def test_the_model_trains_and_its_attention_is_drawn(tmp_path, command):
    command("train", f"--config={EXAMPLES}/cvt_config.py:tiny", f"--workdir={tmp_path}/run")
    assert {"validation/accuracy", "test/accuracy"} <= set(json.loads((tmp_path / "run" / "results.json").read_text()))
    assert (tmp_path / "run" / "attention" / "rollout.png").exists()
    assert json.loads((tmp_path / "run" / "report.json").read_text())["attention"]


def test_the_task_learns_and_answers(tmp_path, command):
    nouns, verbs = ("dogs", "birds", "boys"), ("sing", "run", "see")
    lines = [f"{noun} {verb} {other}" for noun in nouns for verb in verbs for other in nouns]
    (tmp_path / "words").write_text("\n".join(lines))
    (tmp_path / "tags").write_text("\n".join(["NOUN VERB NOUN"] * len(lines)))
    config = f"{EXAMPLES}/tagging_config.py:words={tmp_path}/words,tags={tmp_path}/tags,tiny"
    command("train", f"--config={config}", f"--workdir={tmp_path}/run", "--config.optimizer.learning_rate=1e-2")
    assert command("predict", f"--workdir={tmp_path}/run", "boys run", "birds") == "NOUN VERB\nNOUN\n"


def test_the_task_names_a_sentence_with_too_few_tags(tmp_path):
    source = types.SimpleNamespace(examples=lambda split: [{"source": "birds sing", "target": "NOUN"}])
    task = example("tagging").Tagging().prepare(source, tmp_path)
    with pytest.raises(UserError, match="sentence 1 has not as many words as tags: give one tag for each word"):
        task.rows(source.examples("train"), train=True, seed=0)


def test_aligned_verses_keep_their_links(tmp_path):
    """A miniature of the package's files: 41 verses, of which one has no links and one links a word of the next."""
    package, names = tmp_path / "package", [f"40001{number:03}" for number in range(1, 42)]
    for name in ("sources", "eng/targets/BSB", "eng/alignments/BSB"):
        (package / "data" / name).mkdir(parents=True)
    greek = [f"n{verse}{place:03}\ta\t{word}" for verse in names for place, word in enumerate(("ὁ", "κύων"), 1)]
    english = [
        f"{verse}{place:03}\t{verse}\t{word}" for verse in names for place, word in enumerate(("The", '"', "dog"), 1)
    ]
    (package / "data/sources/SBLGNT.tsv").write_text("\n".join(["id\taltId\ttext", *greek]))
    (package / "data/eng/targets/BSB/nt_BSB.tsv").write_text("\n".join(["id\tsource_verse\ttext", *english]))
    records = [
        {"source": [f"n{verse}002"], "target": [f"{verse}003", f"{verse}001"]} for verse in names if verse != names[5]
    ]
    records[0]["target"].append(f"{names[1]}002")
    (package / "data/eng/alignments/BSB/SBLGNT-BSB-manual.json").write_text(json.dumps({"records": records}))
    script = ROOT / "docs" / "examples" / "aligned_bible.py"
    subprocess.run([sys.executable, script, package, tmp_path / "out"], check=True, timeout=60)
    found = {path.name: path.read_text().splitlines() for path in (tmp_path / "out").iterdir()}
    assert {len(found[f"test.{kind}"]) for kind in ("el", "en", "links")} == {2} and len(found["train.en"]) == 36
    assert found["test.el"][0] == "ὁ κύων" and found["test.en"][0] == 'The " dog'
    assert {*found["test.links"], *found["train.links"], *found["validation.links"]} == {"1-0 1-2"}
