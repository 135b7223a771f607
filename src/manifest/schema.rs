//! The JSON schema of `system.toml`, and the reference page made from it.

use serde_json::Value;

use super::raw;

/// The schema, generated from [`raw`]. TOML has no null, so neither has the schema.
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(raw::File).to_value();
    without_null(&mut schema);
    schema
}

fn without_null(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.values_mut().for_each(without_null);
            if object.get("default").is_some_and(Value::is_null) {
                object.remove("default");
            }
            unwrap_nullable(object);
        }
        Value::Array(items) => items.iter_mut().for_each(without_null),
        _ => {}
    }
}

fn unwrap_nullable(object: &mut serde_json::Map<String, Value>) {
    if let Some(Value::Array(kinds)) = object.get("type") {
        let rest: Vec<Value> = kinds.iter().filter(|kind| *kind != "null").cloned().collect();
        if let [only] = rest.as_slice() {
            object.insert("type".to_owned(), only.clone());
        }
    }
    let Some(Value::Array(any)) = object.get("anyOf") else { return };
    let rest: Vec<Value> = any.iter().filter(|schema| schema["type"] != "null").cloned().collect();
    if let [Value::Object(only)] = rest.as_slice() {
        let only = only.clone();
        object.remove("anyOf");
        for (key, value) in only {
            object.entry(key).or_insert(value);
        }
    }
}
