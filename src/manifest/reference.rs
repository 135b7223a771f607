//! The reference page of `system.toml`, made from the schema and so from the doc comments of [`super::raw`].

use std::fmt::Write;

use serde_json::Value;

use super::schema;

const HEAD: &str = "# `system.toml`

<!-- Made from the doc comments in src/manifest/raw.rs: `NSD_BLESS=1 cargo test -p nsd --lib manifest` writes it. -->

";

const TEMPLATES: &str = "
## Strings and templates

Strings (`env`, `command`, `entrypoint`, `program`, `user`, `labels`, `files`) and template files may use
[tera](https://keats.github.io/tera/). They can name:

| name | what it is |
| --- | --- |
| `system.name`, `system.namespace`, `system.id` | of the file |
| `topology` | the name of the topology that is compiled |
| `machine.name`, `machine.ip`, `machine.address` | the machine that the instance stands on |
| `process.name` | the process |
| `instance.name`, `.number`, `.host`, `.port`, `.address` | the instance: `mqtt-1.mqtt.1`, its number, and how others reach it |
| `instance.bind`, `instance.listen` | the address and port that the program itself should listen on, whatever runs it |
| `instances.NAME[0]` | the same for each instance of another process (`instances[\"my-name\"]` if there is a `-` in it) |
| `balances` | the list of balanced instances |
| `secret.NAME` | a secret, in files and `env` only |
| `files[\"redis.conf\"]`, `volumes[\"/data\"]` | the path of a file or volume as the program sees it, in a container or not |
| `vars.NAME` | from `vars` of the process |

Templates that come with nsd: `broker.toml.tera`, `balancer.toml.tera`, `haproxy.cfg.tera`, `redis.conf.tera`. A file of the
same name in the folder `templates` beside `system.toml` takes its place.
";

/// Markdown, one section a table.
pub(super) fn reference() -> String {
    let schema = schema();
    let mut page = HEAD.to_owned();
    section(&schema, &schema, "The file", &mut page);
    let empty = serde_json::Map::new();
    for (name, definition) in schema["$defs"].as_object().unwrap_or(&empty) {
        if definition["properties"].is_object() {
            section(&schema, definition, name, &mut page);
        }
    }
    page.push_str(TEMPLATES);
    page
}

fn section(root: &Value, schema: &Value, name: &str, page: &mut String) {
    let empty = serde_json::Map::new();
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    // A `String` takes every write.
    let _ =
        write!(page, "## {name}\n\n{}\n\n| key | value | meaning |\n| --- | --- | --- |\n", about(schema));
    for (key, property) in schema["properties"].as_object().unwrap_or(&empty) {
        let must = if required.contains(&key.as_str()) { " (required)" } else { "" };
        let _ = writeln!(page, "| `{key}`{must} | {} | {} |", kind(root, property), about(property));
    }
    page.push('\n');
}

fn about(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().replace('\n', " ").replace('|', "\\|")
}

/// The type in words, with links to the sections of tables.
fn kind(root: &Value, schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
        let target = &root["$defs"][name];
        if target["properties"].is_object() {
            return format!("[{name}](#{})", name.to_lowercase());
        }
        return kind(root, target);
    }
    if let Some(any) = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array()) {
        let mut kinds: Vec<String> = any.iter().map(|schema| kind(root, schema)).collect();
        kinds.dedup();
        return kinds.join(" or ");
    }
    if let Some(word) = schema["const"].as_str() {
        return format!("`{word}`");
    }
    if let Some(words) = schema["enum"].as_array() {
        let words = words.iter().filter_map(Value::as_str).map(|word| format!("`{word}`"));
        return words.collect::<Vec<_>>().join(", ");
    }
    match schema["type"].as_str() {
        Some("string") => "string".to_owned(),
        Some("integer") => "whole number".to_owned(),
        Some("number") => "number".to_owned(),
        Some("boolean") => "`true`, `false`".to_owned(),
        Some("array") => format!("list of {}", kind(root, &schema["items"])),
        Some("object") => format!("table of {}", kind(root, &schema["additionalProperties"])),
        _ => "anything".to_owned(),
    }
}
