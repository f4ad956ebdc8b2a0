"""Chats with folders of to-hf and to-peft through transformers alone; runs in any Python that has it.

Usage: hf_client.py JOB.json, see client_job.py. PEFT finds the base of an adapter by itself.
"""

import client_job
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
        chats.append({"prompt": ids[0].tolist(), "answer": output[0, ids.shape[1]:].tolist()})
    return chats


client_job.run(f"transformers {transformers.__version__}", answers)
