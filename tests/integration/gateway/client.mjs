// The official Node client, unchanged: prints what it got as JSON.
import OpenAI, { toFile } from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "one two three four" }];
const found = {};

found.models = (await client.models.list()).data.map((one) => one.id);
const model = found.models[0];
found.chat = (await client.chat.completions.create({ model, messages })).choices[0].message.content;

found.streamed = "";
for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) {
  found.streamed += chunk.choices[0]?.delta?.content ?? "";
}

found.helper = await client.chat.completions.stream({ model, messages }).finalContent();

const embeddings = await client.embeddings.create({ model, input: ["a", "b"] });
found.embeddings = embeddings.data.map((one) => one.embedding.length);

try {
  await client.chat.completions.create({ model, messages, temperature: 99 });
} catch (error) {
  found.error = { name: error.constructor.name, status: error.status, message: error.message };
}

const lines = [1, 2, 3].map((number) => JSON.stringify({
  custom_id: `row-${number}`, method: "POST", url: "/v1/chat/completions", body: { model, messages },
}));
const file = await client.files.create({
  file: await toFile(Buffer.from(lines.join("\n")), "in.jsonl"), purpose: "batch",
});
let batch = await client.batches.create({
  input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h",
});
while (!["completed", "failed"].includes(batch.status)) {
  await new Promise((resolve) => setTimeout(resolve, 100));
  batch = await client.batches.retrieve(batch.id);
}
const output = await (await client.files.content(batch.output_file_id)).text();
found.batch = {
  counts: batch.request_counts,
  ids: output.trim().split("\n").map((line) => JSON.parse(line).custom_id).sort(),
  listed: (await client.batches.list()).data.some((one) => one.id === batch.id),
};
const cancelled = await client.batches.create({
  input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h",
});
found.cancelled = (await client.batches.cancel(cancelled.id)).status;
try {
  await client.files.retrieve("file-nope");
} catch (error) {
  found.missing = error.status;
}

console.log(JSON.stringify(found));
