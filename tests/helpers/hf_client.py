"""Chats with folders of to-hf and to-peft through transformers alone; runs in any Python that has it.

Usage: hf_client.py JOB.json, a mapping with `messages` (conversations), `new_tokens`, and `models`: name to
`folder` and, where PEFT is to load an adapter and find the base by itself, `adapter`. Prints JSON: the
version, and for each model the ids of the prompts, those of the greedy answers, and their texts.
"""

import json
import sys
from pathlib import Path

import torch
import transformers


def answers(folder, adapter, conversations, new_tokens):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if adapter:
        import peft

        model = peft.AutoPeftModelForCausalLM.from_pretrained(adapter)
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    chats = []
    for conversation in conversations:
        text = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids),
                                    max_new_tokens=new_tokens)
        answer = output[0, ids.shape[1]:].tolist()
        chats.append({"prompt": ids[0].tolist(), "answer": answer,
                      "text": tokenizer.decode(answer, skip_special_tokens=True)})
    return chats


def main(path):
    job = json.loads(Path(path).read_text())
    print(json.dumps({"version": f"transformers {transformers.__version__}", **{
        name: answers(**model, conversations=job["messages"], new_tokens=job["new_tokens"])
        for name, model in job["models"].items()}}))


main(*sys.argv[1:])
