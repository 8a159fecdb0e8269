// What Mermaid's own parser finds in the flowcharts on standard input, a JSON list of texts.
import fs from "node:fs";
import { JSDOM } from "jsdom";

const page = new JSDOM("<body></body>");
globalThis.window = page.window;
globalThis.document = page.window.document;
const { default: mermaid } = await import("mermaid");
mermaid.initialize({ startOnLoad: false });

// As its renderer does: codes were hidden from the parser as ﬂ°°35¶ß and ﬂ°quot¶ß.
const shown = (text) =>
  (text ?? "")
    .replace(/<br>/g, "\n")
    .replace(/ﬂ°°(\d+)¶ß/g, (_, code) => String.fromCodePoint(Number(code)));

const found = [];
for (const text of JSON.parse(fs.readFileSync(0, "utf8"))) {
  const { db } = await mermaid.mermaidAPI.getDiagramFromText(text);
  found.push({
    steps: Object.fromEntries([...db.getVertices()].map(([id, step]) => [id, [shown(step.text), step.type]])),
    arrows: db.getEdges().map((arrow) => [arrow.start, arrow.end, shown(arrow.text)]),
    roles: db.getSubGraphs().map((role) => [shown(role.title), role.nodes.toSorted()]),
  });
}
console.log(JSON.stringify(found));
