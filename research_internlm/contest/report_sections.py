"""The report's sections, each written from what a RunFolder says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from research_internlm import recipes
from research_internlm.contest import facts as contest_facts
from research_internlm.contest import scoring, squad_check
from research_internlm.contest.report_text import Say, flat, gate_line, in_line, pair, plain, rows, warning
from research_internlm.model import lora
from research_internlm.runs import log_summary
from research_internlm.runs.log_warnings import RECENT
from research_internlm.runs.results import EvaluationFacts
from research_internlm.runs.run_folder import RunFolder
from research_internlm.shared.schema import to_json

SOURCE_PREFIX = "3_source/mindformers/research/internlm"  # in the zip, where upstream's research models live
# Facts of RunFolder.stated that the report repeats, with their names in both languages.
STATED = {
    "lora_rank": ("LoRA 秩", "LoRA rank"), "lora_alpha": ("LoRA alpha", "LoRA alpha"),
    "target_modules": ("微调模块", "target modules"), "trainable": ("可训练参数量", "trainable parameters"),
    "seq_length": ("序列长度", "sequence length"), "batch_size": ("每卡批大小", "batch size a card"),
    "cards": ("卡数", "cards"), "global_batch_size": ("全局批大小", "global batch size"),
    "epochs": ("训练轮数", "epochs"), "scheduled_steps": ("总步数", "optimizer steps"),
    "train_rows": ("训练样本行数", "training rows"), "learning_rate": ("学习率", "learning rate"),
}


def algorithm(run: RunFolder, say: Say) -> Iterator[str]:
    """How the model was tuned."""
    config = run.model_config
    count = lora.count_parameters(config)
    pet_config = config.get("pet_config")
    if pet_config:
        target, rank = pet_config["target_modules"], lora.setting(pet_config, "lora_rank")
        scaling, dropout = f"{lora.scaling(pet_config):g}", lora.setting(pet_config, "lora_dropout")
        yield say(
            f"采用 LoRA 低秩微调：冻结基座模型 {count.base:,} 个参数，在名称匹配 `{target}` 的线性层旁"
            f"增加秩为 {rank} 的低秩矩阵（缩放系数 alpha/rank = {scaling}，dropout {dropout}），"
            f"共 {count.matched} 处、{count.trainable:,} 个可训练参数。",
            f"LoRA: the base model's {count.base:,} parameters are frozen; cells matching `{target}` get "
            f"low-rank matrices of rank {rank} (scaling alpha/rank = {scaling}, dropout {dropout}), "
            f"{count.matched} cells and {count.trainable:,} trainable parameters in all.")
    else:
        yield say(f"全参数微调，可训练参数 {count.trainable:,} 个。",
                  f"Full fine-tuning of {count.trainable:,} parameters.")
    yield say("损失只计算在回答部分（含结束符），提示部分的标签为 -100。",
              "The loss covers the answer and its end markers only; labels of the prompt are -100.")


def data(run: RunFolder, say: Say) -> Iterator[str]:
    """What it was trained and validated on."""
    for section, data in run.info.data.items():
        yield f"**{section}**: `{Path(data.file).name}`"
        yield ""
        yield from rows((say("项目", "item"), say("值", "value")), [
            *((say(f"样本数 {name}", f"count {name}"), value)
              for name, value in flat(to_json(data.counts), say)),
            *((say(f"词元 {name}", f"tokens {name}"), value)
              for name, value in flat(to_json(data.tokens), say)),
            *((key, getattr(data, key) or say("未记录", "not recorded"))
              for key in ("seq_length", "prompt_version", "evaluation_kind", "sha256"))])
        yield ""
    yield say("数据由来（每步的清单文件）：", "Where the data comes from (each step's manifest):")
    yield ""
    yield from rows((say("文件", "file"), say("工具", "tool"), say("设置与计数", "settings and counts")),
                    [(name, manifest.get("tool") or say("未记录", "not recorded"),
                      _manifest_line(manifest, say))
                     for name, manifest in run.provenance()])
    yield ""
    steps = run.steps
    yield say(f"每轮 {steps.per_epoch:,} 步，每轮因不足一批而未用 {steps.dropped:,} 行。",
              f"{steps.per_epoch:,} steps an epoch; {steps.dropped:,} rows an epoch do not fill a batch and "
              "are left out.")


def _manifest_line(manifest: Mapping[str, Any], say: Say) -> str:
    """A manifest's settings and counts in one line, without hashes and long lists."""
    settings = {key: value for key, value in manifest.items()
                if isinstance(value, (str, int, float)) and key not in ("tool", "file", "bytes")
                and "sha256" not in key}
    counts = {key: value for key, value in flat(manifest.get("counts") or {}, say)
              if not isinstance(manifest["counts"].get(key), list)}
    return in_line({**settings, **counts}, say)


def hyperparameters(run: RunFolder, say: Say) -> Iterator[str]:
    """All settings that shape the result."""
    stated: dict[str, Any] = {}
    for facts in run.stated().values():
        stated = {**facts, **stated}
    yield from rows((say("超参数", "setting"), say("值", "value")), [
        *((f"{say(*names)} `{key}`", stated[key]) for key, names in STATED.items() if key in stated),
        *_settings(run.recipe, say)])


def _settings(recipe: Mapping[str, Any], say: Say) -> Iterator[tuple[str, object]]:
    for section in ("optimizer", "lr_schedule", "runner_wrapper"):
        yield section, in_line(recipe.get(section) or {}, say)
    config = recipes.model_config(recipe)
    yield "dtype", in_line({key: config[key] for key in (
        "compute_dtype", "param_init_type", "layernorm_compute_type", "softmax_compute_type", "rotary_dtype")
        if key in config}, say)
    runner = recipe["runner_config"]
    yield "sink", in_line({key: runner.get(key) for key in ("sink_mode", "sink_size")}, say)
    yield "recompute", plain((recipe.get("recompute_config") or {}).get("recompute", False), say)
    yield "seed", plain(recipe.get("seed"), say)


def training(run: RunFolder, summary: Mapping[str, Any], say: Say) -> Iterator[str]:
    """How the training went, with its figures."""
    yield from rows((say("项目", "item"), say("值", "value")), [
        (say("完成步数", "steps done"), f"{summary['step']:,} / {summary['total_steps']:,}"),
        (say("首个记录损失", "first logged loss"), f"{summary['first_loss']:.4f}"),
        (say(f"最后 {RECENT} 条记录平均损失", f"mean loss of the last {RECENT} lines"),
         f"{summary['last_loss']:.4f}"),
        (say("单步时间（毫秒，中位数）", "step time (ms, median)"), f"{summary['step_ms']:g}"),
        (say("有效词元/秒", "useful tokens/s"), f"{summary['useful_tokens_per_second']:,.1f}"
         if summary["useful_tokens_per_second"] else say("未测", "not measured")),
        (say("溢出步数", "overflow steps"), summary["overflow_steps"]),
        (say("中断后继续次数", "restarts"), len({entry["step"] for entry in summary["restarts"]})),
        *((say(f"第 {entry['step']:,} 步验证损失", f"validation loss after step {entry['step']:,}"),
           f"{entry['loss']:.4f}") for entry in summary["valid_loss"])])
    yield ""
    for figure in ("train_loss.png", "valid_loss.png"):
        if (run.path / log_summary.OUTPUT_FOLDER / figure).exists():
            yield f"![{figure}]({log_summary.OUTPUT_FOLDER}/{figure})"
            yield ""
    yield say("保存的检查点（步数取自文件内部）：", "Checkpoints (steps read from inside the files):")
    yield ""
    yield from rows((say("步", "step"), say("文件", "file")),
                    [(checkpoint.step, checkpoint.path.name) for checkpoint in run.checkpoints])
    for text in summary["warnings"]:
        yield ""
        yield say("日志警告：", "Warning from the logs: ") + warning(text, say)


def evaluation(run: RunFolder, say: Say) -> Iterator[str]:
    """Accuracy, SQuAD, gate, ratio and score."""
    yield from rows(
        (say("文件", "file"), say("模型", "model"), say("准确率", "accuracy"), say("正确/总数", "right/all"),
         say("无法匹配", "unmatched"), say("测试集性质", "kind of test"), say("方式", "mode")),
        [(name, say("基座", "base") if base else result.checkpoint, f"{result.overall.accuracy:.2%}",
          f"{result.overall.correct:,}/{result.overall.total:,}", result.overall.unmatched,
          result.evaluation_kind, result.mode)
         for base in (True, False) for name, result in run.mmlu_results(base).items()])
    yield ""
    yield from rows(
        (say("文件", "file"), say("模型", "model"), say("竞赛口径 F1/EM", "contest F1/EM"),
         say("题数", "questions"), say("官方口径 F1/EM", "official F1/EM"), say("题数", "questions")),
        [(name, say("基座", "base") if base else result.checkpoint, pair(result.contest),
          result.contest.total, pair(result.official), result.official.total)
         for base in (True, False) for name, result in run.squad_results(base).items()])
    yield ""
    yield from squad_check.file_lines(run, say)
    yield say("竞赛口径（每段首题、首个答案）与官方口径不可比较。",
              "Contest metric (first question, first answer) and official metric are not comparable.")
    if any(result.evaluation_kind == "reordered_train_questions"
           for result in run.mmlu_results(False).values()):
        yield say("注意：`reordered_train_questions` 的测试题是训练题换了选项顺序，其准确率衡量的是记忆。",
                  "Note: `reordered_train_questions` are training questions with reordered options; accuracy "
                  "on them measures memory.")
    yield ""
    yield from _verdict(run, say)


def _verdict(run: RunFolder, say: Say) -> Iterator[str]:
    missing = say("未测", "not measured")
    best = contest_facts.best_mmlu(run)
    ratio = contest_facts.contest_ratio(run)
    reached = scoring.contest_score(best[1].overall.accuracy, ratio) if best else None
    yield from rows((say("项目", "item"), say("值", "value")), [
        (say("低参比例", "low-parameter ratio"), f"{ratio:.9f}"),
        (say("SQuAD 门槛", "SQuAD gate"),
         gate_line(gate, say) if (gate := contest_facts.gate(run)) else missing),
        (say("得分（第二阶段公式，自测准确率）", "score (second phase, own accuracy)"),
         f"{reached:.6f}" if reached is not None else missing)])


def weights(run: RunFolder, say: Say) -> Iterator[str]:
    """Where the weights can be had."""
    public = [link for link in run.links if link.public_read]
    if not public:
        yield say("尚无公开链接（upload_obs.sh --public_read --record 会记录）。",
                  "No public links yet (upload_obs.sh --public_read --record writes them down).")
        return
    yield from rows((say("文件", "file"), say("字节", "bytes"), "sha256", say("链接", "link")),
                    [(link.file, link.bytes, link.sha256, link.url) for link in public])


def environment(run: RunFolder, say: Say) -> Iterator[str]:
    """Versions and the commands that repeat the run."""
    yield from rows((say("软件", "software"), say("版本", "version")), run.info.versions.items())
    yield ""
    device, workers, started = run.info.device_target, run.info.workers, run.info.started
    yield say(f"设备：{device}，{workers} 个进程；开始于 {started}。",
              f"Device: {device}, {workers} worker(s); started {started}.")
    yield ""
    yield say(f"额外环境命令与复现命令，在源码包目录（提交包中的 {SOURCE_PREFIX}）中执行：",
              "Extra environment commands and the command that repeats the run, in the folder of the source "
              f"package ({SOURCE_PREFIX} of the hand-in):")
    yield from ("", "```bash", "pip install -e .", run.command(), "```")


def inference(run: RunFolder, say: Say) -> Iterator[str]:
    """What differs from the organisers' inference."""
    versions = sorted({result.prompt_version for result in run.results.values()
                       if isinstance(result, EvaluationFacts)})
    named = ", ".join(f"`{version}`" for version in versions) or say("（无评测结果）", "(no results)")
    yield say(
        f"推理使用 research_internlm/evaluate.py：提示词由训练所用的同一函数生成（版本 {named}），贪心解码；"
        "答案字母由严格规则提取，无法匹配的回答计为错误并逐条列出。",
        f"Inference is research_internlm/evaluate.py: prompts come from the function that made the training "
        f"prompts (version {named}), decoding is greedy; a strict rule reads the letter, and answers without "
        "one count as wrong and are listed.")
