"""Continued pretraining (Gururangan et al., 2020): does more language modelling, on texts of the domain or on those of
the task, help a task?

DIR/pretraining/ARM-SEED/   the runs of language modelling
DIR/study.json, cells/, ...   the study of the task (see `tlx.records.studies`)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from tlx import processes
from tlx.data import Data, Source
from tlx.models import Architecture
from tlx.models.heads import Vocabulary
from tlx.objectives import Supervised
from tlx.optim import Optim
from tlx.recipe import Recipe, Train, Weights
from tlx.records.studies import StudyRecords
from tlx.sharding import Mesh
from tlx.study import Study, run_study
from tlx.study.base import document, settle
from tlx.study.clusters.base import Cluster
from tlx.study.sweeps import Override
from tlx.tasks import CausalLanguageModel, Denoising, MaskedLanguageModel, Task
from tlx.training.loop import How, run
from tlx.training.run_many import CELLS
from tlx.tuning import Full
from tlx.weights.pretrained import open_checkpoint

ARM, SEED = "further pretraining", "seed"
NONE, OF_TASK, OF_DOMAIN, BOTH = "no further pretraining", "task", "domain", "domain, then task"
ARMS = (NONE, OF_TASK, OF_DOMAIN, BOTH)
FOLDERS = {OF_TASK: "task", OF_DOMAIN: "domain", BOTH: "both"}
# The rate and the share of warm-up of task-adaptive pretraining in the paper (its table 13).
RATE, WARMUP = 1e-4, 0.06


@dataclass(frozen=True, kw_only=True)
class Continued:
    """Continued pretraining before a task.

    Attributes:
        recipe: The recipe of the task. Its training texts are those of the arm `task`.
        domain: The data set of the arm `domain`, of which no label is read; None takes all training texts of the
            recipe's target, also those that the recipe leaves out (`data.shots`).
        steps: The steps of each run of language modelling; the arm of both takes them twice.
        lr: Their learning rate.
        batch: The texts of a step; None for that of the recipe.
        whole_words: Hide whole words in masked language modelling.
        arms: The arms to compare with no further pretraining.
        seeds: The number of seeds. Every seed has separate language modelling.
    """

    recipe: Recipe
    domain: str | Source | None = None
    steps: int = 500
    lr: float = RATE
    batch: int | None = None
    whole_words: bool = False
    arms: tuple[str, ...] = (OF_TASK, OF_DOMAIN, BOTH)
    seeds: int = 5

    def __post_init__(self) -> None:
        if self.recipe.weights is None:
            raise ValueError("the recipe has no pretrained weights to continue with; give weights=Weights(...)")
        if self.steps < 1 or self.seeds < 1:
            raise ValueError(f"steps is {self.steps} and seeds is {self.seeds}; expected 1 or more of each")
        for arm in self.arms:
            if arm not in FOLDERS:
                raise ValueError(f"there is no arm {arm!r}; the arms are {', '.join(map(repr, FOLDERS))}")
        if self.domain is None and self.whole_target == self.texts_of_task:
            extra = [arm for arm in self.arms if arm != OF_TASK]
            if extra:
                raise ValueError(
                    f"the arm {extra[0]!r} needs texts that the task does not have: name a data set (--domain NAME), "
                    "or let the recipe use a part of its texts (data.shots)"
                )
        # Weights that cannot continue their pretraining are refused at once.
        _ = self.language_task

    @property
    def texts_of_task(self) -> Data:
        """Return the training texts of the recipe."""
        return replace(
            self.recipe.data, source=None, labels=None, streams=(), tests=(), sampling="shuffled", eps_y=0.0, eps_x=0.0,
            source_classes=(),
        )  # fmt: skip

    @property
    def whole_target(self) -> Data:
        """Return all training texts of the target."""
        return replace(self.texts_of_task, shots=None, fraction=None)

    @property
    def texts_of_domain(self) -> Data:
        """Return the texts of the domain."""
        if self.domain is None:
            return self.whole_target
        return replace(self.whole_target, target=self.domain, folds=None, fold=0, target_classes=(), target_shift=())

    @property
    def seed_numbers(self) -> range:
        """Return the seeds."""
        return range(self.recipe.seed, self.recipe.seed + self.seeds)

    def folder(self, out: Path, arm: str, seed: int) -> Path:
        """Return the folder of a run of language modelling."""
        return out / "pretraining" / f"{FOLDERS[arm]}-{seed}"

    def pretraining(self, out: Path, seed: int) -> dict[Path, Recipe]:
        """Return the recipes of language modelling of one seed by folder, in the order in which they run."""
        recipes = {}
        stages: dict[str, tuple[Data, Path | None]] = {
            OF_TASK: (self.texts_of_task, None),
            OF_DOMAIN: (self.texts_of_domain, None),
            BOTH: (self.texts_of_task, self.folder(out, OF_DOMAIN, seed)),
        }
        needed = {*self.arms, *((OF_DOMAIN,) if BOTH in self.arms else ())}
        for arm in (arm for arm in stages if arm in needed):
            data, after = stages[arm]
            recipes[self.folder(out, arm, seed)] = self.language_recipe(data, after, seed)
        return recipes

    def language_recipe(self, data: Data, after: Path | None, seed: int) -> Recipe:
        """Return the recipe of language modelling on some data, from the weights in the folder `after`, else from those
        of the task."""
        weights = self.recipe.weights
        assert weights is not None
        train = self.recipe.train
        return Recipe(
            data=data,
            task=self.language_task,
            weights=Weights(weights.source if after is None else str(after)),
            tuning=Full(),
            objective=(Supervised(),),
            optim=Optim(lr=self.lr, weight_decay=0.01, warmup=WARMUP, schedule="linear", clip=1.0),
            train=Train(
                steps=self.steps, batch=self.batch or train.batch, eval_batch=train.eval_batch, eval_every=self.steps,
                dtype=train.dtype,
            ),
            seed=seed,
        )  # fmt: skip

    @cached_property
    def language_task(self) -> Task:
        """Return the language modelling that the weights were pretrained with (see the function)."""
        assert self.recipe.weights is not None
        checkpoint = open_checkpoint(self.recipe.weights.source, self.recipe.task, self.recipe.model)
        return language_task(checkpoint.settings, self.whole_words)

    def study(self, out: Path) -> Study:
        """Return the study of the task, whose cells begin with the weights of each arm."""
        cells = []
        for seed in self.seed_numbers:
            cells.append(Override({ARM: NONE, SEED: seed}, {"seed": seed}))
            for arm in self.arms:
                changes = {"seed": seed, "weights.source": str(self.folder(out, arm, seed))}
                cells.append(Override({ARM: arm, SEED: seed}, changes))
        return Study(
            base=self.recipe,
            cells=cells,
            question="Does further pretraining help, on texts of the task or of its domain?",
            baseline={ARM: NONE},
        )


def language_task(architecture: Architecture, whole_words: bool = False) -> Task:
    """Return the language modelling that an architecture was pretrained with: masked words for an encoder, the next
    word for a decoder, hidden spans for both together.

    Raises:
        ValueError: The architecture has no head over a vocabulary.
    """
    if Vocabulary not in architecture.supported_heads:
        raise ValueError(
            f"{type(architecture).__name__} has no head over a vocabulary, so it cannot continue its pretraining; use "
            "text weights such as those of BERT, RoBERTa, GPT-2 or T5"
        )
    if architecture.first_word() is not None:
        return Denoising()
    if architecture.key_shape() is not None:
        return CausalLanguageModel()
    return MaskedLanguageModel(whole_words=whole_words)


def measure(
    plan: Continued,
    out: str | Path,
    *,
    jobs: int = 1,
    quiet: bool = False,
    command: str = "",
    file: str = "",
    worker: Sequence[str] = (),
    mesh: Mesh = Mesh(),
    on: Cluster | None = None,
) -> StudyRecords:
    """Run the language modelling that is not finished, then the study of the task, in the directory `out`.

    The test split of the task is not read before the study. The other arguments are those of `tlx.study.run_study`.

    Args:
        plan: The arms.
        out: The directory.
    """
    directory = Path(out)
    study = plan.study(directory)
    content = document(study, Path(file).stem or directory.name, command, file)
    processes.decided(lambda: settle(directory, content))
    for seed in plan.seed_numbers:
        for folder, recipe in plan.pretraining(directory, seed).items():
            run(recipe, folder, resume=True, how=replace(LANGUAGE, quiet=quiet, mesh=mesh))
    return run_study(
        study, directory, jobs=jobs, quiet=quiet, command=command, file=file, worker=worker,
        mesh=mesh, on=on, how=CELLS,
    )  # fmt: skip


# Nothing of the test split may shape the weights.
LANGUAGE = How(test=False, checkpoint_seconds=60.0, keep_last=1)
