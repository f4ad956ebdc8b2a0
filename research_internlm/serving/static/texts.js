/** What the page says, in English and Chinese. */

const TEXTS = {
  en: {
    other: "中文",
    settings: "Settings",
    models: "Models",
    model: "Model",
    compare: "Compare two models",
    second: "Second model",
    oneModel: "To compare, serve a second model: --adapter NAME=CHECKPOINT.",
    asking: "Prompt and sampling",
    system: "System prompt",
    temperature: "temperature",
    max_tokens: "max_tokens",
    top_p: "top_p",
    top_k: "top_k",
    repetition_penalty: "repetition_penalty",
    seed: "seed",
    random: "random",
    samplingHint: "temperature 0: the likeliest token each time, so the same answer again. top_k 0: all tokens.",
    conversation: "Conversation",
    export: "Export (JSON)",
    clear: "Clear",
    clearSure: "Remove the conversation and what this browser has stored?",
    storedHint: "Conversation and settings stay in this browser until you press Clear. The server keeps nothing.",
    notStored: "This browser stores nothing, so a reload loses the conversation.",
    start: "Ask below. If two models are chosen, both answer, side by side.",
    key: "API key",
    useKey: "Use key",
    keyHint: "The server asks for a key (INTERNLM_API_KEY). It is kept until this tab is closed.",
    wrongKey: "The server does not accept this key.",
    again: "Try again",
    question: "Your message",
    questionHint: "Ask something. Enter sends, Shift+Enter starts a new line.",
    send: "Send",
    stop: "Stop",
    retry: "Answer again",
    you: "You",
    waiting: "waits for its first token",
    answering: "answering",
    stats: "{prompt} tokens in, {tokens} out · first {first} s · {speed} tokens/s",
    partStats: "about {tokens} tokens · first {first} s · {speed} tokens/s",
    stopped: "Stopped.",
    length: "Ended at max_tokens.",
    full: "Ended because the context of {room} tokens is full.",
    forgotten: "The context is full; oldest exchanges that the model did not see: {count}.",
    empty: "(empty answer)",
    failed: "No answer: {message}",
    network: "the server does not answer. Is it running, and the ssh tunnel or proxy open?",
    cut: "the connection ended in the middle of the answer.",
    context_length_exceeded: "the message alone is longer than the model's context. Shorten it or the system prompt.",
    queue_full: "too many questions are waiting. Try again in a moment.",
    timeout: "the answer took longer than the server allows.",
    invalid_api_key: "the server asks for an API key.",
  },
  zh: {
    other: "English",
    settings: "设置",
    models: "模型",
    model: "模型",
    compare: "对比两个模型",
    second: "第二个模型",
    oneModel: "要对比，请让服务再加载一个模型：--adapter 名字=检查点。",
    asking: "提示词与采样",
    system: "系统提示词",
    temperature: "温度 temperature",
    max_tokens: "最多 token 数",
    top_p: "top_p",
    top_k: "top_k",
    repetition_penalty: "重复惩罚",
    seed: "随机种子",
    random: "随机",
    samplingHint: "温度为 0 时每次取概率最大的 token，同样的问题得到同样的回答。top_k 为 0 表示不限制。",
    conversation: "对话",
    export: "导出 (JSON)",
    clear: "清空",
    clearSure: "删除这段对话，以及浏览器中保存的内容？",
    storedHint: "对话和设置保存在本浏览器中，按“清空”即删除。服务器不保存任何内容。",
    notStored: "浏览器不能保存数据，刷新页面后对话会丢失。",
    start: "请在下方提问。选择两个模型时，它们并排回答同一个问题。",
    key: "API 密钥",
    useKey: "使用密钥",
    keyHint: "服务器要求密钥（INTERNLM_API_KEY）。密钥只保留到本标签页关闭。",
    wrongKey: "服务器不接受这个密钥。",
    again: "重试",
    question: "您的问题",
    questionHint: "请输入问题。回车发送，Shift+回车换行。",
    send: "发送",
    stop: "停止",
    retry: "重新回答",
    you: "您",
    waiting: "等待第一个 token",
    answering: "正在回答",
    stats: "输入 {prompt}，输出 {tokens} token · 首个 {first} 秒 · {speed}/秒",
    partStats: "约 {tokens} token · 首个 {first} 秒 · {speed}/秒",
    stopped: "已停止。",
    length: "已达到最多 token 数。",
    full: "上下文（{room} 个 token）已满，回答到此为止。",
    forgotten: "上下文已满：最早的 {count} 轮对话没有给模型看。",
    empty: "（空回答）",
    failed: "没有回答：{message}",
    network: "服务器没有响应。服务是否在运行，ssh 隧道或代理是否还开着？",
    cut: "回答到一半，连接断开了。",
    context_length_exceeded: "仅这一条消息就超过了模型的上下文长度。请缩短消息或系统提示词。",
    queue_full: "排队的问题太多，请稍后再试。",
    timeout: "回答用时超过了服务器的限制。",
    invalid_api_key: "服务器要求 API 密钥。",
  },
};

let language = navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";

/** The language in use: `en` or `zh`. */
export const currentLanguage = () => language;

/** The text of a name, its {places} filled from `values`. */
export function text(name, values = {}) {
  return TEXTS[language][name].replace(/\{(\w+)\}/g, (_, place) => values[place]);
}

/** What to say of an error of the server or of the connection; its own words where it has no text here. */
export const errorText = (error) => (error.code in TEXTS[language] ? text(error.code) : error.message);

/** Changes the language, and every text of the page that stands in index.html. */
export function useLanguage(name) {
  language = name in TEXTS ? name : language;
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-text]")) {
    element.textContent = text(element.dataset.text);
  }
  for (const element of document.querySelectorAll("[data-placeholder]")) {
    element.placeholder = text(element.dataset.placeholder);
  }
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", text(element.dataset.label));
  }
  const other = document.getElementById("language");
  other.textContent = text("other");
  other.lang = language === "zh" ? "en" : "zh-CN";
}
