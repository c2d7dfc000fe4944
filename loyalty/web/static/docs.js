// Draws the API document. Everything comes from /v1/openapi.json; text is only ever set as text, never as markup.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];
const DEEPEST = 4;
let api;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// Words between backticks are code; nothing else of Markdown is used in the descriptions.
function prose(text) {
  const parts = (text || "").split("`");
  return parts.map((part, place) => (place % 2 ? element("code", {}, part) : part));
}

function paragraphs(text) {
  return (text || "").split(/\n\s*\n/).map((part) => element("p", {}, ...prose(part)));
}

function resolved(schema) {
  let found = schema;
  while (found && found.$ref) {
    const target = found.$ref.split("/").slice(1).reduce((at, name) => at[name.replace(/~1/g, "/").replace(/~0/g, "~")], api);
    const { $ref, ...beside } = found;
    found = { ...target, ...beside };
  }
  return found || {};
}

// The part of a nullable schema that is not null.
function solid(schema) {
  const found = resolved(schema);
  const kinds = (found.anyOf || []).filter((kind) => kind.type !== "null");
  if (!found.anyOf || kinds.length !== 1) return found;
  const { anyOf, ...beside } = found;
  return { ...resolved(kinds[0]), ...beside };
}

function typeOf(schema) {
  const found = resolved(schema);
  if (found.const !== undefined) return JSON.stringify(found.const);
  if (found.enum) return found.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (found.anyOf) return [...new Set(found.anyOf.map(typeOf))].join(" | ");
  if (found.oneOf) return [...new Set(found.oneOf.map(typeOf))].join(" | ");
  if (found.type === "array") return `list of ${typeOf(found.items || {})}`;
  return found.format ? `${found.type} (${found.format})` : found.type || "any";
}

function limits(schema) {
  const found = solid(schema);
  const words = [];
  if (found.minimum !== undefined) words.push(`≥ ${found.minimum}`);
  if (found.maximum !== undefined) words.push(`≤ ${found.maximum}`);
  if (found.minLength > 1) words.push(`at least ${found.minLength} characters`);
  if (found.maxLength !== undefined) words.push(`at most ${found.maxLength} characters`);
  if (found.maxItems !== undefined) words.push(`at most ${found.maxItems} items`);
  if (found.default !== undefined && found.default !== null && typeof found.default !== "object") words.push(`default ${JSON.stringify(found.default)}`);
  return words.join(", ");
}

function fieldRows(schema, depth = 0) {
  const found = solid(schema);
  const parts = [found, ...(found.allOf || []).map(resolved)];
  const properties = Object.assign({}, ...parts.map((part) => part.properties || {}));
  const required = parts.flatMap((part) => part.required || []);
  return Object.entries(properties).flatMap(([name, field]) => {
    const inner = solid(field);
    const nested = inner.type === "array" ? solid(inner.items || {}) : inner;
    const row = element("tr", {},
      element("td", { class: `name deep-${depth}` }, element("code", {}, name), required.includes(name) ? element("span", { class: "needed" }, " required") : null),
      element("td", {}, typeOf(field), element("div", { class: "quiet" }, limits(field))),
      element("td", {}, ...prose(resolved(field).description || inner.description)));
    return [row, ...(nested.properties && depth < DEEPEST ? fieldRows(nested, depth + 1) : [])];
  });
}

function table(titles, rows) {
  const head = element("tr", {}, ...titles.map((title) => element("th", { scope: "col" }, title)));
  return element("div", { class: "table" }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
}

function fields(schema) {
  const found = solid(schema);
  return table(["Field", "Type", "Meaning"], fieldRows(found.type === "array" ? found.items : found));
}

function parametersOf(operation) {
  const rows = operation.parameters.map((parameter) => element("tr", {},
    element("td", { class: "name" }, element("code", {}, parameter.name), parameter.required ? element("span", { class: "needed" }, " required") : null),
    element("td", {}, parameter.in, element("div", { class: "quiet" }, typeOf(parameter.schema), " ", limits(parameter.schema))),
    element("td", {}, ...prose(parameter.description))));
  return rows.length ? [element("h4", {}, "Parameters"), table(["Name", "Where", "Meaning"], rows)] : [];
}

function exampleOf(content) {
  const examples = Object.values((content && content.examples) || {});
  return examples.length ? examples[0].value : undefined;
}

function bodyOf(operation) {
  if (!operation.requestBody) return [];
  return Object.entries(operation.requestBody.content).flatMap(([media, content]) => {
    const kind = solid(content.schema);
    const list = kind.type === "array" ? " (a list of these)" : "";
    const shown = kind.properties || kind.type === "array" ? fields(content.schema) : element("p", {}, ...prose(kind.description || "Bytes."));
    return [element("h4", {}, `Body: ${media}${list}`), shown];
  });
}

function answersOf(operation) {
  const good = Object.entries(operation.responses).filter(([status]) => status < 400);
  const bad = Object.entries(operation.responses).filter(([status]) => status >= 400).map(([status, answer]) => [status, resolved(answer)]);
  const made = good.map(([status, answer]) => {
    const content = (answer.content || {})["application/json"];
    const label = element("summary", {}, `${status} `, ...prose(answer.description));
    return content ? element("details", {}, label, fields(content.schema)) : element("p", {}, `${status} `, ...prose(answer.description));
  });
  const rows = bad.flatMap(([status, answer]) => Object.keys(answer.content["application/problem+json"].examples).map((code) =>
    element("tr", {},
      element("td", {}, status),
      element("td", { class: "name" }, element("a", { href: `/docs/errors#${code}` }, element("code", {}, code))),
      element("td", {}, api.components.examples[code].summary))));
  return [element("h4", {}, "Answers"), ...made,
    element("details", {}, element("summary", {}, "Errors"), table(["Status", "Code", "Meaning"], rows))];
}

function quoted(text) {
  return `'${text.replace(/'/g, "'\\''")}'`;
}

function curl(method, path, operation, key) {
  const filled = path.replace(/\{([^}]+)\}/g, (_, name) => {
    const parameter = operation.parameters.find((one) => one.in === "path" && one.name === name);
    const example = parameter && (parameter.schema.examples || [])[0];
    return example === undefined ? name : encodeURIComponent(example).replace(/%3A/g, ":");
  });
  const lines = [`curl ${method === "get" ? "" : `-X ${method.toUpperCase()} `}${quoted(window.location.origin + filled)}`];
  if (operation.security.length) lines.push(`-H ${quoted(`Authorization: Bearer ${key || "lk_…"}`)}`);
  if (operation.parameters.some((one) => one.name === "If-Match")) lines.push(`-H ${quoted('If-Match: "v1"')}`);
  const content = operation.requestBody && operation.requestBody.content;
  if (content && content["application/json"]) {
    const example = exampleOf(content["application/json"]);
    lines.push(`-H ${quoted("Content-Type: application/json")}`);
    lines.push(`-d ${quoted(JSON.stringify(example === undefined ? {} : example, null, 2))}`);
  } else if (content) {
    lines.push("-F 'file=@picture.png'");
  }
  return lines.join(" \\\n  ");
}

function tryIt(method, path, operation) {
  const command = element("code", {});
  const draw = () => { command.textContent = curl(method, path, operation, document.getElementById("key").value.trim()); };
  draw();
  document.getElementById("key").addEventListener("input", draw);
  const button = element("button", { type: "button" }, "Copy");
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(command.textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return [element("div", { class: "copy" }, element("h4", {}, "Try it"), button), element("pre", { tabindex: "0" }, command)];
}

function operationOf(path, method, operation) {
  const scope = operation["x-scope"];
  return element("section", { class: "operation", id: operation.operationId },
    element("header", {},
      element("h3", {}, element("a", { href: `#${operation.operationId}` }, operation.summary)),
      element("span", {}, element("span", { class: `method ${method}` }, method.toUpperCase()), " ", element("code", {}, path)),
      scope ? element("span", { class: "quiet" }, "scope ", element("code", {}, scope)) : element("span", { class: "quiet" }, "no key needed")),
    ...paragraphs(operation.description), ...parametersOf(operation), ...bodyOf(operation), ...answersOf(operation), ...tryIt(method, path, operation));
}

function draw() {
  document.getElementById("introduction").replaceChildren(...paragraphs(api.info.description));
  const contents = document.getElementById("contents");
  const place = document.getElementById("operations");
  place.replaceChildren();
  for (const tag of api.tags) {
    const list = element("ul");
    contents.append(element("h2", {}, tag.name), list);
    place.append(element("h2", {}, tag.name), ...paragraphs(tag.description));
    for (const [path, operations] of Object.entries(api.paths)) {
      for (const method of METHODS) {
        const operation = operations[method];
        if (!operation || !operation.tags.includes(tag.name)) continue;
        list.append(element("li", {}, element("a", { href: `#${operation.operationId}` }, operation.summary)));
        place.append(operationOf(path, method, operation));
      }
    }
  }
  const wanted = location.hash && document.getElementById(location.hash.slice(1));
  if (wanted) wanted.scrollIntoView();
}

fetch("/v1/openapi.json")
  .then((answer) => answer.json())
  .then((found) => { api = found; draw(); })
  .catch((error) => {
    document.getElementById("operations").replaceChildren(
      element("p", { role: "alert" }, `The API document could not be read (${error.message}). Load this page again.`));
  });
