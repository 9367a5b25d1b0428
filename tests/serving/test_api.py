"""Runs served over HTTP, asked as a client asks them."""

import base64
import http.client
import importlib.util
import io
import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import uvicorn
from PIL import Image

from research.errors import UserError
from research.reports.training import train
from research.runs.predictor import Predictor
from research.serving import worker as workers_module
from research.serving.application import application
from research.serving.worker import Busy, Job, Worker, opened
from research.tasks.task import Task
from research.tasks.translation import Translation

SPECS = {
    "translate": "configs/translation/phrasebook.py:tiny",
    "digits": "configs/vision/digits.py:tiny",
    "sentences": "configs/language/sentences.py:data=stories,tiny",
}
JSON = {"Content-Type": "application/json"}
TEXTS = ["January 5, 2024", "12 hours and 3 feet", "7 kg"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    for name, spec in SPECS.items():
        train(spec, root / name, {})
    (root / "text.txt").write_text("All the world's a stage, and all the men and women merely players.\n" * 40)
    train("configs/language/shakespeare.py:tiny", root / "language", {"data.path": str(root / "text.txt")})
    return {name: str(root / name) for name in (*SPECS, "language")}


class Server:
    """An application at a free port, and a way to ask it."""

    def __init__(self, workers, token=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.workers, hosts = workers, ["127.0.0.1"]
        config = uvicorn.Config(application(workers, hosts, token), port=self.port, log_level="error")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def ask(self, path, content=None, headers=JSON, method=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        body = content if content is None or isinstance(content, bytes) else json.dumps(content).encode()
        connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
        response = connection.getresponse()
        found = response.read()
        connection.close()
        is_json = response.headers.get_content_type() == "application/json"
        return response.status, json.loads(found) if is_json else found.decode()

    def close(self):
        self._server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def server(folders):
    found = Server(opened(folders))
    yield found
    found.close()
    assert not any(one._thread.is_alive() for one in found.workers.values())


def digit(seed=0):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_answers_are_those_of_the_run_whoever_asks_beside(server, folders):
    predictor = Predictor.open(folders["translate"])
    expected = dict(zip(TEXTS, predictor.answer(TEXTS), strict=True))
    status, found = server.ask("/predict", {"run": "translate", "inputs": TEXTS})
    assert (status, found) == (200, {"run": "translate", "answers": [*expected.values()]})

    def one(number):
        text = TEXTS[number % 3]
        _, found = server.ask("/predict", {"run": "translate", "inputs": [text]})
        return found["answers"] == [expected[text]]

    before = server.workers["translate"].counts.batches
    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(one, range(64)))
    assert server.workers["translate"].counts.batches - before < 64, "what waits is answered together"
    options = {"beam_size": 3}
    _, found = server.ask("/predict", {"run": "translate", "inputs": TEXTS[:1], "options": options})
    assert found["answers"] == predictor.answer(TEXTS[:1], **options)


def test_images_as_bytes_and_in_json(server, folders, tmp_path):
    (tmp_path / "digit.png").write_bytes(digit())
    expected = Predictor.open(folders["digits"]).answer([tmp_path / "digit.png"])
    status, found = server.ask("/predict?run=digits", digit(), {"Content-Type": "image/png"})
    assert (status, found["answers"]) == (200, expected)
    coded = {"image": base64.b64encode(digit()).decode()}
    assert server.ask("/predict", {"run": "digits", "inputs": [coded]})[1]["answers"] == expected


def test_embeddings(server, folders):
    expected = [answer["vector"] for answer in Predictor.open(folders["sentences"]).answer(["Where is Ann?", "In bed"])]
    asked = {"model": "sentences", "input": ["Where is Ann?", "In bed"]}
    status, found = server.ask("/v1/embeddings", asked)
    assert status == 200 and [row["index"] for row in found["data"]] == [0, 1]
    np.testing.assert_allclose([row["embedding"] for row in found["data"]], expected, atol=1e-6)
    coded = server.ask("/v1/embeddings", asked | {"encoding_format": "base64"})[1]["data"][1]["embedding"]
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(coded), "<f4"), expected[1], atol=1e-6)
    status, found = server.ask("/v1/embeddings", {"model": "translate", "input": "7 kg"})
    assert status == 400 and "answers with no vectors" in found["error"]["message"]


def events(text):
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line)["choices"][0] for line in lines[:-1]]


def test_completions_whole_and_as_they_grow(server, folders):
    asked = {"model": "language", "prompt": "All the", "max_tokens": 6, "seed": 3}
    options = {"new_tokens": 6, "sample_seed": 3}
    expected = Predictor.open(folders["language"]).answer(["All the"], **options)[0]["text"].removeprefix("All the")
    status, found = server.ask("/v1/completions", asked)
    assert status == 200 and found["choices"][0]["text"] == expected
    assert found["choices"][0]["finish_reason"] == "length" and found["usage"]["completion_tokens"] == 6
    choices = events(server.ask("/v1/completions", asked | {"stream": True})[1])
    assert "".join(choice["text"] for choice in choices) == expected and len(choices) > 3
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["length"]
    greedy = [server.ask("/v1/completions", asked | {"temperature": 0, "seed": seed})[1] for seed in (1, 2)]
    assert greedy[0]["choices"] == greedy[1]["choices"]
    assert len(server.ask("/v1/completions", {"model": "language", "prompt": "All"})[1]["choices"][0]["text"]) <= 16
    choices = events(server.ask("/v1/completions", {"model": "translate", "prompt": "7 kg", "stream": True})[1])
    (whole,) = Predictor.open(folders["translate"]).answer(["7 kg"])
    assert "".join(choice["text"] for choice in choices) == whole["text"]


def test_a_client_that_leaves_ends_its_stream_alone(server):
    language = server.workers["language"]
    asked = json.dumps({"model": "language", "prompt": "All", "max_tokens": 10, "stream": True}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(f"{head}Content-Length: {len(asked)}\r\n\r\n".encode() + asked)
            raw.recv(10)
    assert server.ask("/v1/completions", {"model": "language", "prompt": "All"})[0] == 200
    assert language.waiting == 0 and language.counts.failures == 0


REFUSED = {
    "not JSON": (b"{", 400, "the body is not JSON"),
    "deep": (b"[" * 100_000, 400, "the body is not JSON"),
    "a list": ([], 400, "not an object"),
    "no run": ({"inputs": ["x"]}, 404, "no run is named: use one of translate, digits"),
    "another run": ({"run": "../x", "inputs": ["x"]}, 404, "is not served: use one of"),
    "no inputs": ({"run": "translate"}, 400, "inputs is to be a list of 1 to 256 inputs"),
    "too many": ({"run": "translate", "inputs": ["x"] * 257}, 400, "inputs is to be a list of 1 to 256"),
    "a number": ({"run": "translate", "inputs": [3]}, 400, "this run takes texts: send strings"),
    "empty": ({"run": "translate", "inputs": [""]}, 400, ""),
    "a path": ({"run": "digits", "inputs": ["/etc/passwd"]}, 400, "this run takes images: send their bytes"),
    "no base64": ({"run": "digits", "inputs": [{"image": "%"}]}, 400, "is not base64"),
    "no image": ({"run": "digits", "inputs": [{"image": "aGVsbG8="}]}, 400, "the image"),
    "options": ({"run": "translate", "inputs": ["x"], "options": []}, 400, "options is to be an object"),
    "unknown option": ({"run": "translate", "inputs": ["x"], "options": {"beam": 1}}, 400, "beam is not an option"),
    "wild option": ({"run": "translate", "inputs": ["x"], "options": {"beam_size": 1e9}}, 400, "beam_size"),
    "unknown field": ({"run": "translate", "inputs": ["x"], "option": {}}, 400, "'option' is not a field here"),
    "half a pair": (b'{"run": "translate", "inputs": ["\\ud800"]}', 400, ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_with_a_sentence(name, server):
    content, expected, words = REFUSED[name]
    status, found = server.ask("/predict", content)
    assert status == expected and words in found["error"]["message"] and "\n" not in found["error"]["message"]
    assert server.ask("/predict", {"run": "translate", "inputs": TEXTS[:1]})[0] == 200


def test_other_requests_that_are_refused(server):
    assert server.ask("/predict", b"x", {"Content-Type": "text/plain"})[0] == 415
    assert server.ask("/predict?run=digits", bytes(17 * 2**20), {"Content-Type": "image/png"})[0] == 413
    assert server.ask("/predict")[0] == 405 and server.ask("/nothing", {})[0] == 404
    assert server.ask("/v1/models", None, {"Host": "evil.example"})[0] == 400
    for field, value in {"n": 2, "logprobs": 5, "prompt": ["a", "b"], "temperature": -1, "max_tokens": 0}.items():
        status, found = server.ask("/v1/completions", {"model": "language", "prompt": "All", field: value})
        assert status == 400 and found["error"]["message"]


def test_a_token_is_asked_for(folders):
    server = Server(opened({"translate": folders["translate"]}), token="secret")
    try:
        asked = {"inputs": TEXTS[:1]}
        assert server.ask("/predict", asked)[0] == 401
        assert server.ask("/predict", asked, JSON | {"Authorization": "Bearer other"})[0] == 401
        assert server.ask("/metrics")[0] == 401 and server.ask("/")[0] == 200
        assert server.ask("/predict", asked, JSON | {"Authorization": "Bearer secret"})[0] == 200
    finally:
        server.close()


def test_what_is_measured(server):
    _, before = server.ask("/metrics")
    server.ask("/predict", {"run": "translate", "inputs": TEXTS})
    _, after = server.ask("/metrics")

    def count(text):
        return int(re.search(r'^heed_answers_total{run="translate"} (\d+)$', text, re.MULTILINE)[1])

    assert count(after) == count(before) + 3
    assert 'heed_requests_total{path="/predict",status="200"}' in after and 'heed_waiting{run="digits"} 0' in after


def test_the_page_and_what_it_shows(server):
    status, page = server.ask("/")
    assert status == 200 and all(f">{name}</option>" in page for name in server.workers)
    _, answer = server.ask("/try", {"run": "translate", "inputs": TEXTS[:1]})
    assert 'id="attention-data"' in answer and ">text<" in answer
    _, answer = server.ask("/try?run=digits", digit(), {"Content-Type": "application/octet-stream"})
    assert ">label<" in answer and 'id="attention-data"' in answer


def test_a_question_that_fails_fails_alone(folders, monkeypatch):
    worker = Worker(Predictor.open(folders["translate"]))
    original, gate = worker.predictor.answers, threading.Event()

    def answers(examples, **options):
        gate.wait(60)
        if any(example["source"] == "bad" for example in examples):
            raise RuntimeError("broken")
        return original(examples, **options)

    object.__setattr__(worker.predictor, "answers", answers)
    jobs = [Job({"source": text}, {}) for text in ("7 kg", "bad", "12 feet", "3 miles")]
    for job in jobs:
        worker.submit(job)
    monkeypatch.setattr(workers_module, "WAITING", 3)
    with pytest.raises(Busy):
        worker.submit(Job({"source": "late"}, {}))
    gate.set()
    for job in jobs:
        if job.example["source"] == "bad":
            with pytest.raises(RuntimeError, match="broken"):
                job.future.result(60)
        else:
            assert job.future.result(60) == original([job.example])[0]
    worker.close()
    with pytest.raises(Busy):
        worker.submit(Job({"source": "late"}, {}))


def test_a_busy_run_says_so_before_anything_is_sent(server, monkeypatch):
    """All inputs of a request are taken, or none; a stream is refused with a status of its own too."""
    monkeypatch.setattr(workers_module, "WAITING", 2)
    before = server.workers["translate"].counts.answers
    assert server.ask("/predict", {"run": "translate", "inputs": TEXTS})[0] == 503
    monkeypatch.setattr(workers_module, "WAITING", 0)
    asked = {"model": "language", "prompt": "All", "stream": True}
    for path, content in {"/v1/completions": asked, "/v1/embeddings": {"model": "sentences", "input": "x"}}.items():
        status, found = server.ask(path, content)
        assert status == 503 and found["error"]["message"] == "too many questions wait: ask again in a moment"
    assert server.workers["translate"].counts.answers == before


def test_a_run_that_fails_is_a_status_and_no_end_of_the_server(server, monkeypatch):
    def answers(*_, **__):
        raise RuntimeError("of the inside")

    worker = server.workers["digits"]
    monkeypatch.setattr(type(worker.predictor), "answers", answers)
    status, found = server.ask("/predict?run=digits", digit(), {"Content-Type": "image/png"})
    assert status == 500 and found["error"]["message"] == "the run failed: RuntimeError"
    monkeypatch.undo()
    assert server.ask("/predict?run=digits", digit(), {"Content-Type": "image/png"})[0] == 200


def test_what_the_command_refuses(folders, tmp_path, run, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        told = {
            f"--port {port} of 127.0.0.1 cannot be used": [folders["digits"], f"--port={port}"],
            "two runs are called digits": [folders["digits"], folders["digits"]],
            "--public needs a token in the environment: set HEED_TOKEN": [folders["digits"], "--public"],
            "lets other machines ask the runs: add --public": [folders["digits"], "--host=0.0.0.0"],
            "holds no run": [str(tmp_path), "--port=0"],
        }
        for words, arguments in told.items():
            ended = run("api", *arguments)
            assert ended.code == 2 and words in ended.stderr and len(ended.stderr.splitlines()) == 1
    monkeypatch.setattr(Translation, "example", Task.example)
    with pytest.raises(UserError, match="answers no inputs: serve one of another task"):
        opened({"translate": folders["translate"]})


@pytest.mark.skipif(importlib.util.find_spec("openai") is None, reason="openai is not installed")
def test_the_client_of_openai(server, folders):
    import openai

    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none")
    assert {model.id for model in client.models.list()} == {*server.workers}
    asked = {"model": "language", "prompt": "All the", "max_tokens": 6, "seed": 3}
    whole = client.completions.create(**asked).choices[0].text
    assert "".join(part.choices[0].text for part in client.completions.create(**asked, stream=True)) == whole
    vectors = client.embeddings.create(model="sentences", input=["Where is Ann?"]).data[0].embedding
    expected = Predictor.open(folders["sentences"]).answer(["Where is Ann?"])[0]["vector"]
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    with pytest.raises(openai.BadRequestError, match="has no meaning for this run"):
        client.completions.create(model="translate", prompt="7 kg", temperature=0.5)
