"""From a job's few settings to the configuration of stage 2."""

from pathlib import Path

from models.manifest import read_manifest
from service.finetuning.data import HELD_OUT, REPLAY, TRAIN
from service.finetuning.task import Task
from training.config import UnsupervisedConfig
from training.config_parts import (
    DataConfig,
    EvaluationConfig,
    LoopConfig,
    OptimConfig,
    RewardConfig,
    RolloutConfig,
)
from training.figures import SECOND

BEST_BY = SECOND + "clip_similarity"
"""Smoother than R@1 on the few photos that are held out."""

PATIENCE = 3
"""Looks at held-out photos without a better one after which training stops."""

MOST_JUDGED_WHILE_TRAINING = 200

_TOKENS_A_WORD = 1.2
_MOST_TOKENS = 20
_AVERAGE_DECAY = 0.98
_WARMUP_STEPS = 20


def stage_two(task: Task, base: Path, *, has_replay: bool, base_words: float) -> UnsupervisedConfig:
    """The configuration of a run; its data paths start from the folder of photos.

    Args:
        base: checkpoint folder.
        base_words: mean length of the base's captions, which new ones should not exceed.
    """
    asked = task.asked
    context = read_manifest(base).config.max_tokens
    return UnsupervisedConfig(
        init=str(base.resolve()),
        data=DataConfig(
            unlabelled=(TRAIN,),
            labelled=(REPLAY,) if has_replay else (),
            validation=HELD_OUT,
            workers=task.decode_threads,
        ),
        reward=RewardConfig(
            similarity=asked.similarity,
            contrastive=asked.contrastive,
            kl=asked.kl,
            length=asked.length,
            target_length=_TOKENS_A_WORD * base_words + 1,
            repetition=asked.repetition,
            replay=asked.replay,
        ),
        rollout=RolloutConfig(samples=asked.samples, max_tokens=min(_MOST_TOKENS, context)),
        evaluation=EvaluationConfig(second_scorer=task.second_scorer, max_images=MOST_JUDGED_WHILE_TRAINING),
        optim=OptimConfig(lr=asked.lr, warmup_steps=min(_WARMUP_STEPS, asked.steps // 5), weight_decay=0.01),
        loop=LoopConfig(
            epochs=float(asked.steps * asked.batch_size),
            max_steps=asked.steps,
            max_minutes=asked.max_minutes,
            batch_size=asked.batch_size,
            seed=asked.seed,
            device=task.device,
            precision="auto",
            evaluate_every=asked.evaluate_every,
            save_every=asked.steps,
            save_every_minutes=task.save_every_minutes,
            best_by=BEST_BY if asked.early_stop else "",
            start_may_win=False,
            patience=PATIENCE if asked.early_stop else 0,
            average_decay=_AVERAGE_DECAY,
        ),
    )
