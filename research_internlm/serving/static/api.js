/** The server's API as this page uses it. Addresses are relative to the page. */

const KEY = "internlm-key";
let key = read();

/** An error answer, or no answer. `code` is OpenAI's, or `network` or `cut`. */
export class ApiError extends Error {
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

function read() {
  try {
    return sessionStorage.getItem(KEY);
  } catch { // the browser may forbid it
    return null;
  }
}

/** Sends this key from now on; kept until the tab is closed. */
export function useKey(value) {
  key = value;
  try {
    sessionStorage.setItem(KEY, value);
  } catch {
    // it is in memory at least
  }
}

/** Whether a key is sent. */
export const hasKey = () => Boolean(key);

async function send(path, options = {}) {
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(error.message, "network");
  }
  if (!response.ok) {
    const body = await response.json().catch(() => ({})); // a proxy's own error page is not JSON
    throw new ApiError(body.error?.message ?? `HTTP ${response.status}`, body.error?.code);
  }
  return response;
}

/** The models: a list of {id, max_model_len}. */
export async function listModels() {
  const { data } = await (await send("v1/models")).json();
  return data;
}

/** The chunks of a streamed answer; aborting `signal` ends it, on the server too. */
export async function* streamChat(request, signal) {
  const response = await send("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(chunk.error.message, chunk.error.code);
    yield chunk;
  }
  throw new ApiError("", "cut");
}

/** The data of server-sent events. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split(/\r?\n\r?\n/);
      rest = parts.pop();
      for (const part of parts) {
        if (part.startsWith("data:")) yield part.slice(5).trim();
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(error.message, "cut");
  } finally {
    reader.cancel().catch(() => {}); // a stream that has failed has nothing to cancel
  }
}
