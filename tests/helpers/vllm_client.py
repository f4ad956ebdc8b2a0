"""Chats with folders of to-hf and to-peft through vLLM alone, on a CPU; runs in any Python that has it.

Usage: vllm_client.py JOB.json, see client_job.py.
"""

import os

# One process, little memory, no look at the machine's cores; read while vLLM is imported.
os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1",
               "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}

import client_job
import vllm
from vllm.lora.request import LoRARequest


def answers(folder, adapter, conversations, new_tokens):
    llm = vllm.LLM(folder, dtype="float32", max_model_len=256, enforce_eager=True, enable_lora=bool(adapter))
    # The folder says where generation stops, but vLLM does not read its `do_sample`.
    sampling = vllm.SamplingParams(temperature=0, max_tokens=new_tokens)
    request = LoRARequest("tuned", 1, adapter) if adapter else None
    return [{"prompt": output.prompt_token_ids, "answer": list(output.outputs[0].token_ids)}
            for output in llm.chat(conversations, sampling, lora_request=request, use_tqdm=False)]


client_job.run(f"vllm {vllm.__version__}", answers)
