"""TRL's DPO trainer on the workload, set for speed."""

import statistics
import tempfile
import time

import datasets
import transformers
import trl
from tokenizers import Tokenizer, models

from experiments.speed import transformers_peer, workload
from experiments.speed.figures import update_figures

BETA, LR = 0.1, 1e-6


class TimedTrainer(trl.DPOTrainer):
    """Takes tokens instead of text, and measures the seconds of the reference's batches."""

    def __init__(self, *args, **kwargs):
        self.reference_seconds = []
        super().__init__(*args, **kwargs)

    def _prepare_dataset(self, dataset, *_):
        return dataset

    def compute_ref_log_probs(self, *args):
        start = time.perf_counter()
        log_probs = super().compute_ref_log_probs(*args)
        self.reference_seconds.append(time.perf_counter() - start)
        return log_probs


class EpochClock(transformers.TrainerCallback):
    """Measures the seconds of each epoch."""

    def __init__(self):
        self.seconds = []

    def on_epoch_begin(self, *_, **__):
        self.seconds.append(-time.perf_counter())

    def on_epoch_end(self, *_, **__):
        self.seconds[-1] += time.perf_counter()


def trl_dpo(shape: workload.Shape, options) -> dict:
    """TRL's DPO trainer.

    Set for speed: float32 without bf16 autocast, no gradient checkpointing, no logging, the fused
    AdamW, sdpa attention. The reference's log-probs are computed once before training, and that
    time is added. Its `padding_free` is switched off in this version; batches are padded to their
    own longest sequence.
    """
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    work = workload.pairs(shape, options.pairs * options.steps, options.seed)
    rows = [{f'{part}_ids': list(ids) for part, ids in pair._asdict().items()} for pair in work]
    clock = EpochClock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = TimedTrainer(
            transformers_peer.build(shape, options.seed),
            args=config(folder, options),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer(shape),
            callbacks=[clock],
        )
        trainer.train()
    reference_s = statistics.median(trainer.reference_seconds) * options.steps
    return update_figures(
        work,
        options.steps,
        [reference_s + seconds for seconds in clock.seconds[1:]],
        reference_s=reference_s,
        first_round_s=clock.seconds[0],
    )


def tokenizer(shape: workload.Shape):
    """A tokenizer of two words, for the padding and end tokens; rows come as tokens."""
    vocabulary = {'<pad>': workload.PAD, '<end>': workload.ends(shape)[0]}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token='<pad>')),
        pad_token='<pad>',
        eos_token='<end>',
        padding_side='left',
    )


def config(folder: str, options):
    return trl.DPOConfig(
        folder,
        per_device_train_batch_size=options.pairs,
        num_train_epochs=1 + options.rounds,
        learning_rate=LR,
        lr_scheduler_type='constant',
        beta=BETA,
        max_grad_norm=1.0,
        weight_decay=0.0,
        max_length=None,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        optim='adamw_torch_fused',
        precompute_ref_log_probs=True,
        logging_strategy='no',
        save_strategy='no',
        report_to='none',
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=options.seed,
        **options.trl,
    )
