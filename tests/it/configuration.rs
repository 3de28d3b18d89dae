//! `docs/configuration.md` names every key that manifests and hosts may have.

use std::collections::BTreeSet;
use std::fs;

use skein_job::manifest;
use skein_peer::host::config::Config;
use skein_runtime::Limits;

use crate::harness::root;
use crate::tables;

fn page() -> String {
    fs::read_to_string(root().join(tables::PAGE)).unwrap()
}

#[test]
fn the_tables_are_made_from_the_schema() {
    let page = page();
    let current = tables::replaced(&page, &tables::of(&manifest::schema())).expect("the page has marks");
    assert!(page == current, "`{}` is stale: run `cargo xtask configuration`", tables::PAGE);
}

/// A host with every key that a host may have.
const WHOLE: &str = "
job = \"skein.toml\"
dir = \"run\"
identity = { key_file = \"a.key\" }
[ceilings]
memory_mib = 1
cpu = \"1s\"
wall = \"1s\"
hostcall_mib = 1
handles = 1
concurrency = 1
queue = 1
queue_wait = \"1s\"
total = { memory_mib = 1 }
[wait]
min = \"1s\"
max = \"1m\"
silent = \"1s\"
[store]
url = \"rediss://a.example\"
password_file = \"a.password\"
tls = { ca = \"ca.pem\", certificate = \"a.pem\", key = \"a.pem.key\" }
[[roster]]
id = \"0000000000000000000000000000000000000000000000000000000000000001\"
store = { url = \"rediss://a.example\" }
[[roster]]
id = \"0000000000000000000000000000000000000000000000000000000000000002\"
invitation = \"b.invitation\"
";

/// The paths of all values below `value`; what is in a roster's `store` is that of `store`.
fn keys(value: &toml::Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        toml::Value::Table(table) if path != "roster[].store" => {
            for (key, value) in table {
                keys(value, &format!("{path}{}{key}", if path.is_empty() { "" } else { "." }), found);
            }
        }
        toml::Value::Array(array) => array.iter().for_each(|value| keys(value, &format!("{path}[]"), found)),
        _ => drop(found.insert(path.to_owned())),
    }
}

#[test]
fn the_page_names_every_key_of_a_host() {
    let config: Config = toml::from_str(WHOLE).unwrap();
    let mut known = BTreeSet::from(["identity.index".to_owned()]);
    keys(&toml::Value::try_from(&config).unwrap(), "", &mut known);
    let page = page();
    let rows = page.split("## Configuration of a host").nth(1).unwrap().lines().filter(|line| line.starts_with("| `"));
    let first = rows.map(|row| row.split(" | ").next().unwrap());
    let named = first.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned);
    assert_eq!(named.collect::<BTreeSet<_>>(), known);
}

/// The manifest cannot read them from the runtime, which it does not know.
#[test]
fn limits_are_documented_with_their_values() {
    let Limits { memory_mib, cpu, wall, hostcall_mib, handles, concurrency, queue, queue_wait } = Limits::default();
    assert_eq!(concurrency, u32::MAX, "as many as the host runs");
    let values = [
        ("memory_mib", memory_mib.to_string()),
        ("cpu", format!("{}s", cpu.as_secs())),
        ("wall", format!("{}s", wall.as_secs())),
        ("hostcall_mib", hostcall_mib.to_string()),
        ("handles", handles.to_string()),
        ("concurrency", "as many as the host runs".to_owned()),
        ("queue", queue.to_string()),
        ("queue_wait", format!("{}s", queue_wait.as_secs())),
    ];
    let functions = fs::read_to_string(root().join("docs/functions.md")).unwrap();
    let schema = manifest::schema();
    for (key, value) in values {
        let description =
            schema["$defs"]["Limits"]["properties"][key]["description"].as_str().unwrap().replace('`', "");
        assert!(description.ends_with(&format!("; {value} if not set.")), "`{key}` is {value}: {description}");
        let row = format!("| `{key}` | {value} |");
        assert!(functions.contains(&row), "`docs/functions.md` lacks `{row}`");
    }
}
