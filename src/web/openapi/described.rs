//! The description, made of what handlers say of themselves. A handler tells what is its own; what holds for all (who
//! may ask, problem details, tags and names) is added here, so that no handler can leave it out.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use utoipa::{PartialSchema, ToSchema};

use super::Audience;
use crate::web::problem::Details;
use crate::web::routes::{Described, Routes};

impl Audience {
    fn scopes(self) -> Vec<String> {
        let scopes: &[&str] = match self {
            Self::Anyone => &[],
            Self::Readers => &["read"],
            Self::Exporters => &["read", "export"],
            Self::Admins => &["admin"],
        };
        scopes.iter().map(ToString::to_string).collect()
    }
}

const DESCRIPTION: &str = "Reads meters, closes energy blocks, proves what it recorded. Times are RFC 3339 in UTC. \
    Energy is in kWh and power in kW, as numbers with exactly the decimals of whole µWh and mW: read them as decimals, \
    not as doubles. Absent is null or left out, never 0. A parameter or a member that is not known is refused.";

/// The description of these routes.
pub fn described(groups: impl IntoIterator<Item = (Audience, Routes)>) -> Value {
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for (audience, routes) in groups {
        let Described { paths: of_group, schemas: named } = routes.described;
        for (path, item) in json!(of_group.paths).as_object().cloned().unwrap_or_default() {
            for (method, mut operation) in item.as_object().cloned().unwrap_or_default() {
                complete(&mut operation, &method, &path, audience);
                paths.entry(&path).or_insert_with(|| json!({}))[method] = operation;
            }
        }
        schemas.extend(named.into_iter().map(|(name, schema)| (name, json!(schema))));
    }
    let mut own = vec![(Details::name().into_owned(), Details::schema())];
    Details::schemas(&mut own);
    schemas.extend(own.into_iter().map(|(name, schema)| (name, json!(schema))));
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": env!("CARGO_PKG_NAME"),
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": { "name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE") },
        },
        "paths": paths,
        "components": { "schemas": schemas, "responses": problems(), "securitySchemes": schemes() },
    });
    require_what_is_always_there(&mut document);
    name_widths(&mut document);
    document
}

/// Adds to an operation what follows from where it is.
fn complete(operation: &mut Value, method: &str, path: &str, audience: Audience) {
    let words = path.split(['/', '.', '{', '}', '-', '_']).filter(|word| !word.is_empty() && *word != "api");
    let name: Vec<&str> = std::iter::once(method).chain(words.clone()).collect();
    operation["operationId"] = json!(name.join("_"));
    operation["tags"] = json!([words.clone().next().unwrap_or("page")]);
    let scopes = match operation["security"].as_array() {
        Some(own) => own.iter().filter_map(|way| way["token"][0].as_str()).map(str::to_owned).collect(),
        None => audience.scopes(),
    };
    let is_public = audience == Audience::Anyone && operation["security"].is_null();
    operation["security"] = if is_public { json!([]) } else { security(&scopes, method) };
    let has_body = !operation["requestBody"].is_null();
    let common = [
        ("400", "BadRequest", true),
        ("401", "Unauthorised", !is_public),
        ("403", "Forbidden", true),
        ("413", "BodyTooLong", has_body),
        ("414", "AddressTooLong", true),
        ("421", "OtherHost", true),
        ("429", "TooMany", true),
        ("503", "Unavailable", true),
    ];
    let Some(responses) = operation["responses"].as_object_mut() else { return };
    for (status, response) in &mut *responses {
        if status.as_str() >= "400" && response["content"].is_null() {
            response["content"] = problem_content();
        }
    }
    for (status, name, _) in common.iter().filter(|(.., occurs)| *occurs) {
        let shared = json!({ "$ref": format!("#/components/responses/{name}") });
        responses.entry(*status).or_insert(shared);
    }
}

/// Any of these ways will do. Without a scope, whoever is known may ask.
fn security(scopes: &[String], method: &str) -> Value {
    let mut ways: Vec<Value> = scopes.iter().map(|scope| json!({ "token": [scope] })).collect();
    if scopes.is_empty() {
        ways.push(json!({ "token": [] }));
    }
    let is_viewers = scopes.is_empty() || scopes.iter().any(|scope| scope == "read");
    let role = if is_viewers { "viewer" } else { "admin" };
    ways.push(match method {
        "get" | "head" => json!({ "session": [role] }),
        _ => json!({ "session": [role], "csrf": [] }),
    });
    json!(ways)
}

fn problem_content() -> Value {
    json!({ "application/problem+json": { "schema": { "$ref": format!("#/components/schemas/{}", Details::name()) } } })
}

/// What may come of any request.
fn problems() -> Value {
    let told = |description: &str| json!({ "description": description, "content": problem_content() });
    json!({
        "BadRequest": told("A parameter or the body does not fit. `parameter` says which, where it is one."),
        "Unauthorised": told("No session and no token, or one that is not known here (any more)."),
        "Forbidden": told("The session or the token may not do that; a request by cookie lacks its X-CSRF-Token, or comes \
            from a page elsewhere; or no PIN is set yet, and another machine asks."),
        "BodyTooLong": told("The body is too long, or did not come whole."),
        "AddressTooLong": told("Path and query are longer than 2048 bytes."),
        "OtherHost": told("The request is for a name that is not this gateway's."),
        "TooMany": told("Too many requests come from this address. `Retry-After` says when to ask again."),
        "Unavailable": told("The store does not answer, others wait already, or the program is stopping. `Retry-After` \
            says when to ask again, where that is known."),
    })
}

fn schemes() -> Value {
    json!({
        "token": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API token of the scope named here, or of the scope `admin`; or a session's token.",
        },
        "session": {
            "type": "apiKey",
            "in": "cookie",
            "name": "meterseal_session",
            "description": "A session of the role named here, or of the role `admin`.",
        },
        "csrf": {
            "type": "apiKey",
            "in": "header",
            "name": "X-CSRF-Token",
            "description": "The session's `csrf`: a page elsewhere does not know it.",
        },
    })
}

/// Members that may be null are always there in answers, unless their types say that they may be left out: those are
/// never null (`nullable = false`). What is sent to us may leave out what it may set to null.
fn require_what_is_always_there(document: &mut Value) {
    let mut received = BTreeSet::new();
    let operations = document["paths"].as_object().into_iter().flat_map(Map::values);
    for operation in operations.filter_map(Value::as_object).flat_map(Map::values) {
        refer(&operation["requestBody"], document, &mut received);
    }
    for (name, schema) in document["components"]["schemas"].as_object_mut().into_iter().flatten() {
        if !received.contains(name) {
            require(schema);
        }
    }
}

/// Adds the names of the schemas that `part` is made of.
fn refer(part: &Value, document: &Value, found: &mut BTreeSet<String>) {
    let parts: Vec<&Value> = match part {
        Value::Object(members) => members.values().collect(),
        Value::Array(items) => items.iter().collect(),
        _ => return,
    };
    if let Some(name) = part["$ref"].as_str().and_then(|name| name.strip_prefix("#/components/schemas/"))
        && found.insert(name.to_owned())
    {
        refer(&document["components"]["schemas"][name], document, found);
    }
    for part in parts {
        refer(part, document, found);
    }
}

/// Whole numbers that are never negative have all their bits for the number.
fn name_widths(part: &mut Value) {
    if part["minimum"] == 0
        && let Some(width) = part["format"].as_str().and_then(|format| format.strip_prefix("int"))
    {
        part["format"] = json!(format!("uint{width}"));
    }
    match part {
        Value::Object(members) => members.values_mut().for_each(name_widths),
        Value::Array(items) => items.iter_mut().for_each(name_widths),
        _ => {}
    }
}

fn require(schema: &mut Value) {
    let is_null = |kind: &Value| kind == "null";
    let may_be_null = |member: &Value| {
        member["type"].as_array().is_some_and(|kinds| kinds.iter().any(is_null))
            || member["oneOf"].as_array().is_some_and(|ways| ways.iter().any(|way| is_null(&way["type"])))
    };
    if let Some(members) = schema["properties"].as_object() {
        let nullable = members.iter().filter(|(_, member)| may_be_null(member)).map(|(name, _)| json!(name));
        let mut required = schema["required"].as_array().cloned().unwrap_or_default();
        required.extend(nullable.filter(|name| !required.contains(name)).collect::<Vec<_>>());
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
    }
    match schema {
        Value::Object(members) => members.values_mut().for_each(require),
        Value::Array(items) => items.iter_mut().for_each(require),
        _ => {}
    }
}

mod tests {
    use super::*;
    use std::{env, fs, path::Path};

    /// Set to anything, the test writes the file instead of comparing it.
    const WRITE: &str = "WRITE_OPENAPI";

    #[test]
    fn the_description_that_is_checked_in_is_that_of_the_code() {
        let described = format!("{:#}\n", described(crate::web::routes()));
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
        if env::var_os(WRITE).is_some() {
            fs::write(&path, &described).unwrap();
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        let differs = kept.lines().zip(described.lines()).position(|(kept, described)| kept != described);
        assert!(
            kept == described,
            "docs/openapi.json is not what the code says (from line {} on): write it anew with\n    \
             {WRITE}=1 cargo test --lib the_description_that_is_checked_in",
            differs.unwrap_or(kept.lines().count()) + 1
        );
    }

    fn operations(document: &Value) -> Vec<(&String, &String, &Value)> {
        let paths = document["paths"].as_object().unwrap().iter();
        paths
            .flat_map(|(path, item)| item.as_object().unwrap().iter().map(move |(how, what)| (path, how, what)))
            .collect()
    }

    #[test]
    fn names_are_unique_and_all_that_is_referred_to_is_there() {
        let document = described(crate::web::routes());
        let operations = operations(&document);
        let ids: BTreeSet<_> = operations.iter().map(|(.., operation)| operation["operationId"].as_str()).collect();
        assert_eq!(ids.len(), operations.len());
        fn follow(part: &Value, document: &Value) {
            if let Some(target) = part["$ref"].as_str() {
                assert!(document.pointer(&target[1..]).is_some(), "{target} is not there");
            }
            match part {
                Value::Object(members) => members.values().for_each(|member| follow(member, document)),
                Value::Array(items) => items.iter().for_each(|item| follow(item, document)),
                _ => {}
            }
        }
        follow(&document, &document);
        for (path, how, operation) in operations {
            let named: BTreeSet<_> = path.split('{').skip(1).filter_map(|rest| rest.split('}').next()).collect();
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let told: BTreeSet<_> =
                parameters.iter().filter(|one| one["in"] == "path").filter_map(|one| one["name"].as_str()).collect();
            assert_eq!(named, told, "{how} {path}");
            assert!(operation["summary"].is_string(), "{how} {path} has no summary");
        }
    }

    /// Two types of one name would be one schema, that of the one which was found last.
    #[test]
    fn no_two_types_share_the_name_of_a_schema() {
        fn collect(folder: &Path, names: &mut Vec<String>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    collect(&path, names);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    names.extend(schemas(&fs::read_to_string(path).unwrap()));
                }
            }
        }
        /// The names of types that derive a schema, or those that `schema(as = …)` gives them.
        fn schemas(text: &str) -> Vec<String> {
            let derived = text.split("#[derive(").skip(1).filter(|rest| {
                rest.split(")]").next().is_some_and(|list| list.split(',').any(|name| name.trim() == "ToSchema"))
            });
            let name = |rest: &str| {
                let until = |text: &str| text.split(|c: char| !c.is_alphanumeric()).next().map(str::to_owned);
                let (before, after) = rest
                    .split_once("struct ")
                    .into_iter()
                    .chain(rest.split_once("enum "))
                    .min_by_key(|(before, _)| before.len())?;
                match before.split_once("schema(as = ") {
                    Some((_, name)) => until(name),
                    None => until(after),
                }
            };
            derived.filter_map(name).collect()
        }
        let mut names = Vec::new();
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut names);
        assert!(names.len() > 5, "{names:?}");
        names.sort();
        let twice: Vec<_> = names.windows(2).filter(|two| two[0] == two[1]).map(|two| &two[0]).collect();
        assert!(twice.is_empty(), "types of one name: give them others by #[schema(as = …)]: {twice:?}");
    }

    #[test]
    fn what_may_be_null_is_there_in_answers_and_may_be_left_out_of_orders() {
        let mut document = json!({
            "paths": { "/a": { "post": { "requestBody": { "$ref": "#/components/schemas/Order" } } } },
            "components": { "schemas": {
                "Order": { "properties": { "part": { "oneOf": [{ "type": "null" }, { "$ref": "#/components/schemas/Part" }] } } },
                "Part": { "properties": { "a": { "type": ["string", "null"] } } },
                "Answer": { "allOf": [{ "properties": {
                    "kept": { "type": "string" }, "a": { "type": ["string", "null"] }, "perhaps": { "type": "string" },
                }, "required": ["kept"] }] },
            } },
        });
        require_what_is_always_there(&mut document);
        let schemas = &document["components"]["schemas"];
        assert_eq!((&schemas["Order"]["required"], &schemas["Part"]["required"]), (&Value::Null, &Value::Null));
        assert_eq!(schemas["Answer"]["allOf"][0]["required"], json!(["kept", "a"]));
    }
}
