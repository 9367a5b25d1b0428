"""From a config to everything a run needs: the one place where models, tasks, data, mesh and optimizer meet."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from research.config import apply_overrides, build, choose, read_config, suggestion, to_json
from research.data.loader import Batches
from research.data.plans import Plan
from research.data.source import Withheld
from research.errors import UserError
from research.files import read_json, read_or_set_aside, write_json
from research.hub import agreed, fetched
from research.parallel.mesh import MeshShape, batch_ways, check_batch_size, make_mesh
from research.parallel.sharding import by_path, with_shardings
from research.ranges import Seed
from research.runs.folder import MADE_OF_DATA, is_run
from research.runs.sections import REQUIRED, SECTIONS, at_home, later
from research.runs.tables import MODELS, SOURCES, TASKS
from research.runs.teacher import keep_teacher, learning_from, noted_maps
from research.tasks.task import Task
from research.training.checkpoints import CheckpointPolicy, Checkpoints
from research.training.distillation import Distillation, Distilled
from research.training.durations import Clock
from research.training.evaluation import Evaluator
from research.training.fingerprint import checksum, contents, sealed
from research.training.fitting import kept_micro_batches
from research.training.inference import Inference, Precision
from research.training.matched_layers import without_maps
from research.training.optimizers import OPTIMIZERS, build_optimizer, check_patterns
from research.training.run import Run, TrainingOptions
from research.training.schedules import SCHEDULES
from research.training.state import TrainState, create_state
from research.training.step import Step
from research.training.stored import WEIGHTS, restored
from research.training.trackers import TRACKERS
from research.training.transfer import Transfer, parts_taken, transferred, with_given
from research.values import convert
from research.weights.families import taken
from research.weights.files import read_arrays
from research.weights.place import placed

EVALUATION_BATCH = 64
"""Examples of an evaluation batch where training counts its batches in tokens."""


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """A config brought to life in a run's folder. What costs time (data, tracing the model) is done on demand."""

    config: ConfigDict
    folder: Path
    source: Any
    task: Task
    model: Any
    mesh_shape: MeshShape
    mesh: Mesh
    options: TrainingOptions
    checkpoint: CheckpointPolicy
    transfer: Transfer | None
    tracker: Any = None
    distillation: Distillation | None = None
    weights: Any = None
    """How the checkpoint keeps the parameters, one of `stored.WEIGHTS`; as they were trained where there is none."""
    chosen: int | str | None = None
    """The checkpoint to evaluate, as `Checkpoints.evaluation_steps` takes it."""

    @property
    def seed(self) -> int:
        """The seed of initial weights, data order and dropout."""
        return self.config.get("seed") or 0

    def examples(self, split: str) -> Sequence[Mapping[str, Any]]:
        """A split's examples. Raises UserError where the data are not of the kind that the run began with."""
        self.task.check_source(self.source, self.folder)
        return self.source.examples(split)

    @functools.cached_property
    def batches(self) -> Batches:
        """What the run reads at each of its steps."""
        rows = self.task.rows_of(self.examples("train"), train=True, seed=self.seed)
        plan = self.options.plan(rows, self.seed)
        total = self._clock(plan).steps(self.options.duration)
        return Batches.on_mesh(rows, plan, total, self.mesh, self.options.micro_batches)

    def _clock(self, plan: Plan) -> Clock:
        examples_per_step = plan.num_examples / plan.steps_per_epoch
        tokens = self.task.num_tokens(self.sample_batch) or 0
        tokens_per_step = self.options.batch_tokens or tokens * examples_per_step or None
        return Clock(plan.steps_per_epoch, examples_per_step, tokens_per_step)

    @functools.cached_property
    def run(self) -> Run:
        """What the training loop needs."""
        if self.weights is not None:
            kept = self.config.weights.name
            raise UserError(f"weights {kept} are for answers: train without them, from the run they were made of")
        clock, batches = self._clock(self.batches.plan), self.batches
        schedule = choose(SCHEDULES, self.config.get("schedule", {"name": "constant"}), "schedule")
        factor = schedule.build(len(batches), clock)
        optimizer_config = choose(OPTIMIZERS, self.config.optimizer, "optimizer")
        optimizer = build_optimizer(optimizer_config, factor)
        _, taught = self.teacher
        create = self.create_state(optimizer)
        abstract = self._abstract_state(create)
        check_patterns(optimizer_config, abstract.params)
        return Run(
            folder=self.folder,
            options=self.options,
            step=self.step(optimizer),
            mesh=self.mesh,
            clock=clock,
            batches=batches,
            validation=self.examples("validation") if "validation" in self.source.splits else None,
            evaluator=self.evaluator,
            learning_rate=jax.jit(lambda step: optimizer_config.learning_rate * factor(step)),
            abstract_state=abstract,
            create_state=functools.partial(self._new_state, create, abstract),
            taught=taught,
            belongings=self.belongings,
        )

    @functools.cached_property
    def belongings(self) -> dict[str, int]:
        """Checksums of the config's model and task, without what may change later, and of the run's vocabulary."""
        sections = {name: json.loads(to_json(self.config[name])) for name in ("model", "task")}
        for path in later(self.config):
            section, _, field = path.partition(".")
            sections.get(section, {}).pop(field, None)
        files = [self.folder / name for name in MADE_OF_DATA]
        return {"config.json": checksum(sections)} | {
            path.name: checksum(read_json(path, Any)) for path in files if path.exists()
        }

    @functools.cached_property
    def evaluator(self) -> Evaluator:
        """Measures splits and answers questions; needs no optimizer."""
        ways = batch_ways(self.mesh)
        batch_size = self.options.batch_size or -(-EVALUATION_BATCH // ways) * ways
        if not self.task.compares:  # no more than training has room for
            batch_size = -(-batch_size // (ways * self.options.micro_batches)) * ways
        inference = Inference(self.model, self.task, Precision.parse(self.options.precision))
        return Evaluator(inference, self.mesh, batch_size)

    def variables(self, checkpoints: Any, abstract: TrainState | None = None) -> tuple[dict[str, Any], int]:
        """`kept_variables`, their parameters in float32 however they are kept: as the model itself takes them."""
        variables, step = self.kept_variables(checkpoints, abstract)
        return {**variables, "params": restored(variables["params"])}, step

    def kept_variables(self, checkpoints: Any, abstract: TrainState | None = None) -> tuple[dict[str, Any], int]:
        """The model's variables to evaluate, as the evaluator takes them, and their step (the last of those averaged).

        abstract: the state's shapes, where they are known.

        Raises UserError before the first save.
        """
        steps = checkpoints.evaluation_steps(self.chosen)
        if not steps:
            raise UserError(f"{self.folder} holds no checkpoint yet: train it first")
        checkpoints.check_belongs(steps[-1], self.belongings)
        abstract = abstract or self._abstract_state(self.create_state(None))
        if self.weights is not None:
            abstract = abstract.replace(params=self.weights.abstract(abstract.params), ema=None)
        variables = checkpoints.restore_mean(abstract, steps)
        return {**variables, "params": without_maps(variables["params"])}, steps[-1]

    @functools.cached_property
    def teacher(self) -> tuple[Distilled | None, dict[str, Any] | None]:
        """The loss with a teacher, and the teacher's variables; None and None where there is none.

        Raises UserError where the teacher does not fit, or is not the one that the run began with.
        """
        if (options := self.distillation) is None:
            return None, None
        run, taught, step = trained(Path(options.teacher).expanduser(), self.mesh)
        state = jax.eval_shape(functools.partial(self._fresh, optax.identity(), self.seed, {}))
        student = self.evaluator.inference, state.variables(), self.sample_batch
        distilled = learning_from(options, student, (run.evaluator.inference, taught))
        keep_teacher(self.folder, distilled, step, sealed(contents(taught))["crc"])
        return distilled, taught

    @property
    def _maps(self) -> Mapping[str, tuple[int, int]]:
        """Shapes of the maps to the teacher's states: as noted, for which a run that is opened needs no teacher."""
        if self.distillation is None or not self.distillation.hidden:
            return {}
        return noted_maps(self.folder) or cast(Distilled, self.teacher[0]).maps

    def step(self, optimizer: Any) -> Step:
        options = self.options
        fields = {"accumulate": options.micro_batches, "ema": options.ema, "spike": options.spike}
        precision = Precision.parse(options.precision)
        return Step(self.model, self.task, optimizer, precision, self.seed, distilled=self.teacher[0], **fields)

    def _fresh(self, optimizer: Any, seed: int | jax.Array, maps: Mapping[str, tuple[int, int]]) -> TrainState:
        inputs = self.task.model_inputs(jax.tree.map(jax.numpy.asarray, self.sample_batch))
        ema = self.options.ema is not None
        return create_state(self.model, inputs, optimizer, seed=seed, ema=ema, maps=maps)

    def create_state(self, optimizer: Any, seed: int | jax.Array | None = None) -> Callable[..., TrainState]:
        """A function from what `transfer` takes over to the state of step 0; the config's seed unless given."""
        maps = self._maps

        def create(given: Mapping[str, jax.Array]) -> TrainState:
            state = self._fresh(optimizer or optax.identity(), self.seed if seed is None else seed, maps)
            params = with_given(state.params, given)
            model_state = {name: with_given(tree, given) for name, tree in state.model_state.items()}
            ema = None if state.ema is None else jax.tree.map(jax.numpy.copy, params)
            return state.replace(params=params, model_state=model_state, ema=ema)

        return create

    def loaded(self, arrays: Iterable[tuple[str, np.ndarray]]) -> TrainState:
        """The state of step 0 with these parameters and statistics by their paths, of layers that are not scanned.

        Each is on its devices before the next one is asked for. Raises UserError where one is missing.
        """
        abstract = self._abstract_state(self.create_state(None))
        variables = placed(arrays, {"params": abstract.params, **abstract.model_state})
        params = variables.pop("params")
        start = {"step": jax.numpy.int32(0), "accepted": jax.numpy.int32(0), "norm": jax.numpy.float32(0)}
        opt_state = optax.identity().init(params)
        return TrainState(params=params, opt_state=opt_state, model_state=variables, ema=None, **start)

    def _new_state(self, create: Any, abstract: TrainState) -> TrainState:
        """The state of step 0, born with its shardings, from the seed and from what `transfer` takes over.

        Or the whole state of another run, at its step.
        """
        if self.transfer and self.transfer.whole:
            return self._whole_state(Path(self.transfer.source).expanduser(), abstract)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        return jax.jit(create, out_shardings=shardings)(self.taken_over(abstract))

    def _whole_state(self, source: Path, abstract: TrainState) -> TrainState:
        """The newest state of a run. Raises UserError where it is not one of this model, vocabulary and optimizer."""
        run = open_run(source)
        if run.task.token_ids() != self.task.token_ids():
            raise UserError(
                f"{source} has another vocabulary: leave transfer.whole out, which takes rows by their tokens"
            )
        with Checkpoints(source / "checkpoints", run.checkpoint, write=False) as checkpoints:
            if not (steps := checkpoints.steps()):
                raise UserError(f"{source} holds no checkpoint yet: train it first")
            checkpoints.check_belongs(steps[-1], run.belongings)
            state, _ = checkpoints.restore(abstract, steps[-1])
        if steps[-1] >= len(self.batches):
            end = len(self.batches)
            raise UserError(
                f"{source} is at step {steps[-1]} and this run ends at {end}: use a longer training.duration"
            )
        return state

    def taken_over(self, abstract: TrainState) -> Mapping[str, jax.Array]:
        """What `transfer` takes over from another run or a weight file, by its path."""
        if not self.transfer:
            return {}
        weights, vocabularies = self._weights(agreed(fetched(self.transfer.source, self.folder)))
        trees = [abstract.params, *abstract.model_state.values()]
        given = transferred(self.transfer, weights, trees, vocabularies, self.task.token_ids())
        for line in parts_taken(self.transfer.source, given) if jax.process_index() == 0 else ():
            print(line, flush=True)
        return given

    def _weights(self, source: Path) -> tuple[Mapping[str, Any], Mapping[str, Mapping[str, int]]]:
        """Parameters and statistics of a run's evaluated model, or of published weights, by path, and `token_ids`."""
        if not is_run(source):
            weights = read_arrays(source)
            if any("/" in name for name in weights) and not any(name.startswith("Transformer/") for name in weights):
                return weights, {}  # in our names, not in those of the first ViT
            if self.transfer and self.transfer.into is not None:
                raise UserError(
                    f"transfer.source {source} has names of another make, which transfer.into does not read: make it a "
                    "run with weights import, and take that"
                )
            return taken(self.model, self.task.model_inputs(self.sample_batch), weights), {}
        run, variables, _ = trained(source)
        arrays = {path: leaf for tree in variables.values() for path, leaf in by_path(jax.device_get(tree)).items()}
        return arrays, run.task.token_ids()

    def _abstract_state(self, create: Callable[..., TrainState]) -> TrainState:
        state = jax.eval_shape(create, {})
        return with_shardings(state, state.params, self.mesh, self.mesh_shape.rules)

    @functools.cached_property
    def sample_batch(self) -> Mapping[str, np.ndarray]:
        """One example's worth of zeros in the shapes of a batch, remembered in the run's folder."""
        path = self.folder / "batch.json"
        if stored := read_or_set_aside(path, dict[str, list]):
            with contextlib.suppress(ValueError, TypeError, MemoryError):  # it is made anew
                return {name: np.zeros(shape, dtype) for name, (dtype, shape) in stored.items()}
        rows = self.task.rows_of(self.source.examples("train"), train=False, seed=0)
        batch = rows.batch(np.zeros(1, np.int64), np.zeros(1, np.int64), None)  # of the largest shape
        shapes = {name: [array.dtype.name, list(array.shape)] for name, array in batch.items()}
        if jax.process_index() == 0:
            write_json(path, shapes)
        return {name: np.zeros_like(array) for name, array in batch.items()}


def build_experiment(
    config: ConfigDict, folder: Path, devices: Sequence[jax.Device] | None = None, *, stored: bool = False
) -> Experiment:
    """Builds every section strictly. Reads the data only where the folder lacks the vocabulary or class names.

    devices: those of the mesh, all unless given. stored: the config is what a folder holds, and may name any file as
    its data: these are not read.
    """
    for section in config:
        if section not in SECTIONS:
            raise UserError(f"{section} is not a section of a config: {suggestion(section, SECTIONS, 'sections')}")
    for section in REQUIRED:
        if section not in config:
            raise UserError(f"the config has no section {section}: add one (needed: {', '.join(REQUIRED)})")
    convert(config.get("seed", 0), Seed, "seed", build)
    options = build(TrainingOptions, config.training, "training")
    Precision.parse(options.precision)
    mesh_shape = build(MeshShape, config.get("mesh", {}), "mesh")
    mesh = make_mesh(mesh_shape, devices)
    if options.accumulate == "auto" and (kept := kept_micro_batches(folder, options.batch_size, batch_ways(mesh))):
        options = dataclasses.replace(options, accumulate=kept)
    if options.batch_size is not None:
        check_batch_size(options.batch_size, mesh, options.micro_batches, "training.batch_size")
    checkpoint = build(CheckpointPolicy, config.get("checkpoint", {}), "checkpoint")
    if options.patience is not None and checkpoint.best is None:
        raise UserError("training.patience waits for a new best: set checkpoint.best, such as 'validation/loss'")
    transfer = build(Transfer, config.transfer, "transfer") if "transfer" in config else None
    distillation = build(Distillation, config.distillation, "distillation") if "distillation" in config else None
    tracker = choose(TRACKERS, config.tracker, "tracker") if "tracker" in config else None
    weights = choose(WEIGHTS, config.weights, "weights") if "weights" in config else None
    choose(OPTIMIZERS, config.optimizer, "optimizer")
    choose(SCHEDULES, config.get("schedule", {"name": "constant"}), "schedule")
    source = choose(SOURCES, at_home(config.data), "data")
    task = choose(TASKS, config.task, "task").prepare(Withheld(folder) if stored else source, folder)
    if task.whole_batch and options.accumulate != 1:
        raise UserError(
            f"training.accumulate {options.accumulate} would compare the examples of each micro-batch alone: set it to "
            "1, and task.chunk to what the memory holds"
        )
    if task.compares and config.training.get("accumulate") == "auto":
        raise UserError("training.accumulate auto would change what the loss compares: set it to a number")
    model = task.with_head(choose(MODELS, config.model, "model", **task.model_fields()))
    settings = mesh_shape, mesh, options, checkpoint, transfer, tracker, distillation, weights
    return Experiment(config, folder, source, task, model, *settings)


def open_run(
    folder: Path,
    checkpoint: int | str | None = None,
    options: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
) -> Experiment:
    """The experiment of a finished or half-finished run, on its mesh if that fits the devices here.

    checkpoint: as `Checkpoints.evaluation_steps` takes it. options: of its task's answers, in place of its own. data:
    overrides of the config's section `data`, as `research.config.load` takes them; with a `data.name` among them it is
    another source, which has its own fields alone.
    """
    stored = folder / "config.json"
    if not stored.exists():
        raise UserError(f"{folder} holds no run: give the folder of one that was trained")
    config = read_config(stored)
    try:
        make_mesh(build(MeshShape, config.get("mesh", {}), "mesh"))
    except UserError:
        config.mesh = {}
    experiment = build_experiment(config, folder, stored=True)
    if data:
        changed = config.copy_and_resolve_references()
        if "data.name" in data:
            changed.data = {"name": data["data.name"]}
        apply_overrides(changed, data)
        experiment = dataclasses.replace(experiment, source=choose(SOURCES, at_home(changed.data), "data"))
    task = experiment.task.answering(**(options or {}))
    return dataclasses.replace(experiment, task=task, chosen=checkpoint)


def trained(folder: Path, mesh: Mesh | None = None) -> tuple[Experiment, dict[str, Any], int]:
    """A run, on another mesh if given, its model's evaluated variables, and their step."""
    run = open_run(folder)
    if mesh is not None:
        run = dataclasses.replace(run, mesh=mesh)
    with Checkpoints(run.folder / "checkpoints", run.checkpoint, write=False) as checkpoints:
        return run, *run.variables(checkpoints)
