"""The report's sections, each written from what a RunFolder says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from research_internlm import recipes
from research_internlm.contest import facts as contest_facts
from research_internlm.contest import scoring, squad_check
from research_internlm.contest.report_text import Translate, flat, gate_line, in_line, pair, plain, rows
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


def algorithm(run: RunFolder, translate: Translate) -> Iterator[str]:
    """How the model was tuned."""
    config = run.model_config
    count = lora.count_parameters(config)
    pet_config = config.get("pet_config")
    if pet_config:
        target, rank = pet_config["target_modules"], lora.setting(pet_config, "lora_rank")
        scaling, dropout = f"{lora.scaling(pet_config):g}", lora.setting(pet_config, "lora_dropout")
        yield translate(
            f"采用 LoRA 低秩微调：冻结基座模型 {count.base:,} 个参数，在名称匹配 `{target}` 的线性层旁"
            f"增加秩为 {rank} 的低秩矩阵（缩放系数 alpha/rank = {scaling}，dropout {dropout}），"
            f"共 {count.matched} 处、{count.trainable:,} 个可训练参数。",
            f"LoRA: the base model's {count.base:,} parameters are frozen; cells matching `{target}` get "
            f"low-rank matrices of rank {rank} (scaling alpha/rank = {scaling}, dropout {dropout}), "
            f"{count.matched} cells and {count.trainable:,} trainable parameters in all.")
    else:
        yield translate(f"全参数微调，可训练参数 {count.trainable:,} 个。",
                        f"Full fine-tuning of {count.trainable:,} parameters.")
    yield translate("损失只计算在回答部分（含结束符），提示部分的标签为 -100。",
                    "The loss covers the answer and its end markers only; labels of the prompt are -100.")


def data(run: RunFolder, translate: Translate) -> Iterator[str]:
    """What it was trained and validated on."""
    for section, data in run.info.data.items():
        yield f"**{section}**: `{Path(data.file).name}`"
        yield ""
        yield from rows((translate("项目", "item"), translate("值", "value")), [
            *((translate(f"样本数 {name}", f"count {name}"), value)
              for name, value in flat(to_json(data.counts), translate)),
            *((translate(f"词元 {name}", f"tokens {name}"), value)
              for name, value in flat(to_json(data.tokens), translate)),
            *((key, getattr(data, key) or translate("未记录", "not recorded"))
              for key in ("seq_length", "prompt_version", "evaluation_kind", "sha256"))])
        yield ""
    yield translate("数据由来（每步的清单文件）：", "Where the data comes from (each step's manifest):")
    yield ""
    yield from rows((translate("文件", "file"), translate("工具", "tool"),
                     translate("设置与计数", "settings and counts")),
                    [(name, manifest.get("tool") or translate("未记录", "not recorded"),
                      _manifest_line(manifest, translate))
                     for name, manifest in run.provenance()])
    yield ""
    steps = run.steps
    yield translate(f"每轮 {steps.per_epoch:,} 步，每轮因不足一批而未用 {steps.dropped:,} 行。",
                    f"{steps.per_epoch:,} steps an epoch; {steps.dropped:,} rows an epoch do not fill a "
                    "batch and are left out.")


def _manifest_line(manifest: Mapping[str, Any], translate: Translate) -> str:
    """A manifest's settings and counts in one line, without hashes and long lists."""
    settings = {key: value for key, value in manifest.items()
                if isinstance(value, (str, int, float)) and key not in ("tool", "file", "bytes")
                and "sha256" not in key}
    counts = {key: value for key, value in flat(manifest.get("counts") or {}, translate)
              if not isinstance(manifest["counts"].get(key), list)}
    return in_line({**settings, **counts}, translate)


def hyperparameters(run: RunFolder, translate: Translate) -> Iterator[str]:
    """All settings that shape the result."""
    stated: dict[str, Any] = {}
    for facts in run.stated().values():
        stated = {**facts, **stated}
    yield from rows((translate("超参数", "setting"), translate("值", "value")), [
        *((f"{translate(*names)} `{key}`", stated[key]) for key, names in STATED.items() if key in stated),
        *_settings(run.recipe, translate)])


def _settings(recipe: Mapping[str, Any], translate: Translate) -> Iterator[tuple[str, object]]:
    for section in ("optimizer", "lr_schedule", "runner_wrapper"):
        yield section, in_line(recipe.get(section) or {}, translate)
    config = recipes.model_config(recipe)
    yield "dtype", in_line({key: config[key] for key in (
        "compute_dtype", "param_init_type", "layernorm_compute_type", "softmax_compute_type", "rotary_dtype")
        if key in config}, translate)
    runner = recipe["runner_config"]
    yield "sink", in_line({key: runner.get(key) for key in ("sink_mode", "sink_size")}, translate)
    yield "recompute", plain((recipe.get("recompute_config") or {}).get("recompute", False), translate)
    yield "seed", plain(recipe.get("seed"), translate)


def training(run: RunFolder, summary: Mapping[str, Any], translate: Translate) -> Iterator[str]:
    """How the training went, with its figures."""
    some = summary["loss_ranks"] if summary["loss_ranks"] != summary["ranks"] else []
    yield from rows((translate("项目", "item"), translate("值", "value")), [
        (translate("完成步数", "steps done"), f"{summary['step']:,} / {summary['total_steps']:,}"),
        (translate("首个记录损失", "first logged loss"), f"{summary['first_loss']:.4f}"),
        (translate(f"最后 {RECENT} 条记录平均损失", f"mean loss of the last {RECENT} lines"),
         f"{summary['last_loss']:.4f}"),
        *([(translate("有损失的进程（流水线并行）", "ranks with a loss (pipeline parallelism)"),
            ", ".join(map(str, some)))] if some else []),
        (translate("单步时间（毫秒，中位数）", "step time (ms, median)"), f"{summary['step_ms']:g}"),
        (translate("有效词元/秒", "useful tokens/s"), f"{summary['useful_tokens_per_second']:,.1f}"
         if summary["useful_tokens_per_second"] else translate("未测", "not measured")),
        (translate("溢出步数", "overflow steps"), summary["overflow_steps"]),
        (translate("中断后继续次数", "restarts"), len({entry["step"] for entry in summary["restarts"]})),
        *((translate(f"第 {entry['step']:,} 步验证损失", f"validation loss after step {entry['step']:,}"),
           f"{entry['loss']:.4f}") for entry in summary["valid_loss"])])
    yield ""
    for figure in ("train_loss.png", "valid_loss.png"):
        if (run.path / log_summary.OUTPUT_FOLDER / figure).exists():
            yield f"![{figure}]({log_summary.OUTPUT_FOLDER}/{figure})"
            yield ""
    yield translate("保存的检查点（步数取自文件内部）：", "Checkpoints (steps read from inside the files):")
    yield ""
    yield from rows((translate("步", "step"), translate("文件", "file")),
                    [(checkpoint.step, checkpoint.path.name) for checkpoint in run.checkpoints])
    for warning in summary["warnings"]:
        yield ""
        yield translate(f"日志警告：{warning.text('zh')}", f"Warning from the logs: {warning.text('en')}")


def evaluation(run: RunFolder, translate: Translate) -> Iterator[str]:
    """Accuracy, SQuAD, gate, ratio and score."""
    yield from rows(
        (translate("文件", "file"), translate("模型", "model"), translate("准确率", "accuracy"),
         translate("正确/总数", "right/all"), translate("无法匹配", "unmatched"),
         translate("测试集性质", "kind of test"), translate("方式", "mode")),
        [(name, translate("基座", "base") if base else result.checkpoint, f"{result.overall.accuracy:.2%}",
          f"{result.overall.correct:,}/{result.overall.total:,}", result.overall.unmatched,
          result.evaluation_kind, result.mode)
         for base in (True, False) for name, result in run.mmlu_results(base).items()])
    yield ""
    yield from rows(
        (translate("文件", "file"), translate("模型", "model"), translate("竞赛口径 F1/EM", "contest F1/EM"),
         translate("题数", "questions"), translate("官方口径 F1/EM", "official F1/EM"),
         translate("题数", "questions")),
        [(name, translate("基座", "base") if base else result.checkpoint, pair(result.contest),
          result.contest.total, pair(result.official), result.official.total)
         for base in (True, False) for name, result in run.squad_results(base).items()])
    yield ""
    yield from squad_check.file_lines(run, translate)
    yield translate("竞赛口径（每段首题、首个答案）与官方口径不可比较。",
                    "Contest metric (first question, first answer) and official metric are not comparable.")
    if any(result.evaluation_kind == "reordered_train_questions"
           for result in run.mmlu_results(False).values()):
        yield translate(
            "注意：`reordered_train_questions` 的测试题是训练题换了选项顺序，其准确率衡量的是记忆。",
            "Note: `reordered_train_questions` are training questions with reordered options; accuracy on "
            "them measures memory.")
    yield ""
    yield from _verdict(run, translate)


def _verdict(run: RunFolder, translate: Translate) -> Iterator[str]:
    missing = translate("未测", "not measured")
    best = contest_facts.best_mmlu(run)
    ratio = contest_facts.contest_ratio(run)
    reached = scoring.contest_score(best[1].overall.accuracy, ratio) if best else None
    yield from rows((translate("项目", "item"), translate("值", "value")), [
        (translate("低参比例", "low-parameter ratio"), f"{ratio:.9f}"),
        (translate("SQuAD 门槛", "SQuAD gate"),
         gate_line(gate, translate) if (gate := contest_facts.gate(run)) else missing),
        (translate("得分（第二阶段公式，自测准确率）", "score (second phase, own accuracy)"),
         f"{reached:.6f}" if reached is not None else missing)])


def weights(run: RunFolder, translate: Translate) -> Iterator[str]:
    """Where the weights can be had."""
    public = [link for link in run.links if link.public_read]
    if not public:
        yield translate("尚无公开链接（upload_obs.sh --public_read --record 会记录）。",
                        "No public links yet (upload_obs.sh --public_read --record writes them down).")
        return
    yield from rows((translate("文件", "file"), translate("字节", "bytes"), "sha256",
                     translate("链接", "link")),
                    [(link.file, link.bytes, link.sha256, link.url) for link in public])


def environment(run: RunFolder, translate: Translate) -> Iterator[str]:
    """Versions and the commands that repeat the run."""
    yield from rows((translate("软件", "software"), translate("版本", "version")),
                    run.info.versions.items())
    yield ""
    device, workers, started = run.info.device_target, run.info.workers, run.info.started
    yield translate(f"设备：{device}，{workers} 个进程；开始于 {started}。",
              f"Device: {device}, {workers} worker(s); started {started}.")
    yield ""
    yield translate(f"额外环境命令与复现命令，在源码包目录（提交包中的 {SOURCE_PREFIX}）中执行：",
                    "Extra environment commands and the command that repeats the run, in the folder of the "
                    f"source package ({SOURCE_PREFIX} of the submission):")
    yield from ("", "```bash", "pip install -e .", run.command(), "```")


def inference(run: RunFolder, translate: Translate) -> Iterator[str]:
    """What differs from the organisers' inference."""
    versions = sorted({result.prompt_version for result in run.results.values()
                       if isinstance(result, EvaluationFacts)})
    named = ", ".join(f"`{version}`" for version in versions) or translate("（无评测结果）", "(no results)")
    yield translate(
        f"推理使用 research_internlm/evaluate.py：提示词由训练所用的同一函数生成（版本 {named}），贪心解码；"
        "答案字母由严格规则提取，无法匹配的回答计为错误并逐条列出。",
        f"Inference is research_internlm/evaluate.py: prompts come from the function that made the training "
        f"prompts (version {named}), decoding is greedy; a strict rule reads the letter, and answers without "
        "one count as wrong and are listed.")
