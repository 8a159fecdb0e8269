// The official Node client, unchanged: prints what it got as JSON.
import OpenAI from "openai";

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

console.log(JSON.stringify(found));
