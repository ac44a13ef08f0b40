// Server-sent events out of bytes, in time linear in their length: a picture is one line of many megabytes.

/** Yields `{name, data}` for an event and `{comment}` for a sign of life. */
export async function* readEvents(chunks) {
  const decoder = new TextDecoder();
  const event = { name: "message", data: [] };
  let open = [];
  for await (const chunk of chunks) {
    const lines = decoder.decode(chunk, { stream: true }).split("\n");
    const rest = lines.pop();
    for (const line of lines) {
      open.push(line);
      yield* readLine(open.join("").replace(/\r$/, ""), event);
      open = [];
    }
    open.push(rest);
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
