// Server-sent events from bytes, in time linear in their length: an image is one line of many megabytes.

/** Yields `{name, data}` for an event and `{comment}` for a comment. */
export async function* readEvents(chunks) {
  const decoder = new TextDecoder();
  const event = { name: "message", data: [] };
  let line = [];
  for await (const chunk of chunks) {
    const parts = decoder.decode(chunk, { stream: true }).split("\n");
    const rest = parts.pop();
    for (const part of parts) {
      line.push(part);
      yield* readLine(line.join("").replace(/\r$/, ""), event);
      line = [];
    }
    line.push(rest);
  }
}

function* readLine(line, event) {
  if (line === "") {
    if (event.data.length) yield { name: event.name, data: event.data.join("\n") };
    event.name = "message";
    event.data = [];
  } else if (line.startsWith(":")) {
    yield { comment: line.slice(1).trim() };
  } else {
    const colon = line.indexOf(":");
    const [field, value] = [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, "")];
    if (field === "event") event.name = value;
    if (field === "data") event.data.push(value);
  }
}
