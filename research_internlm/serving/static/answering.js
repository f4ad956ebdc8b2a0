/** One answer, from its question to its last token. */

import { ApiError, streamChat } from "./api.js";
import { exchanges, systemMessages, tokensPerCharacter } from "./conversation.js";

/** An answer that has not begun. */
export const newAnswer = (model) => ({
  model: model.id, room: model.max_model_len, text: "", state: "running", pieces: 0, forgotten: 0,
});

/**
 * Writes an answer into its object, and says so after each piece.
 *
 * When the context is full the oldest exchanges are left out: by an estimate, so that there is room for the
 * answer, and more of them where the server still says that the prompt is too long.
 */
export async function write(answer, { before, question, column, settings, signal, onChange }) {
  const earlier = exchanges(before, column);
  const asked = { role: "user", content: question };
  answer.forgotten = tooMany(earlier, asked, settings, answer.room, tokensPerCharacter(before, column));
  for (;; answer.forgotten += 1) {
    const messages = [
      ...systemMessages(settings.system), ...earlier.slice(answer.forgotten).flat(), asked];
    try {
      await stream(answer, messages, settings, signal, onChange);
      answer.state = "done";
    } catch (error) {
      if (error.code === "context_length_exceeded" && answer.forgotten < earlier.length) continue;
      end(answer, error);
    }
    onChange();
    return;
  }
}

/** How many of the oldest exchanges to leave out; as `internlm chat` does, which can count tokens. */
function tooMany(earlier, asked, settings, room, rate) {
  if (!rate) return 0;
  const limit = room - Math.min(settings.max_tokens, room / 2);
  const sizes = earlier.map((pair) => rate * count(pair));
  let total = rate * count([...systemMessages(settings.system), asked]) + sizes.reduce((a, b) => a + b, 0);
  let gone = 0;
  while (gone < sizes.length && total > limit) total -= sizes[gone++];
  return gone;
}

const count = (messages) => messages.reduce((sum, message) => sum + message.content.length, 0);

function end(answer, error) {
  if (error.name === "AbortError") {
    answer.state = "stopped";
    return;
  }
  if (!(error instanceof ApiError)) console.error(error);
  answer.state = "failed";
  answer.error = { code: error.code, message: error.message };
}

async function stream(answer, messages, settings, signal, onChange) {
  const { temperature, top_p, top_k, repetition_penalty, max_tokens, seed } = settings;
  const started = performance.now();
  const request = {
    model: answer.model, messages, temperature, top_p, top_k, repetition_penalty, max_tokens, seed };
  for await (const { choices: [choice], usage } of streamChat(request, signal)) {
    const piece = choice?.delta.content;
    if (piece) {
      answer.seconds = (performance.now() - started) / 1000;
      answer.first ??= answer.seconds;
      answer.text += piece;
      answer.pieces += 1;
    }
    answer.finish = choice?.finish_reason ?? answer.finish;
    if (usage) {
      answer.usage = usage;
      answer.characters = count(messages) + answer.text.length;
    }
    onChange();
  }
}
