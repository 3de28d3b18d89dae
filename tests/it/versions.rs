//! Files and databases of older versions: each is read, or refused with both versions and a way out.

use std::fs;
use std::path::PathBuf;

use skein_protocol::identity::Identity;
use skein_protocol::keys::Ed25519;
use skein_protocol::record::{RecordError, Unverified};
use skein_redis::{Invitation, Scope};
use skein_types::{Digest, PeerId};

use crate::harness::{Database, Place, root};

/// The newest generation.
const GENERATION: u32 = 4;

/// The public key of the first peer in all samples.
fn key() -> String {
    Identity::derived(1, 0).id().to_string()
}

/// A sample that the given generation of the program wrote; see `tests/data/formats/README.md`.
fn sample(generation: u32, file: &str) -> PathBuf {
    root().join(format!("tests/data/formats/{generation}/{file}"))
}

/// A folder with the job of a generation.
fn job(generation: u32) -> Place {
    let place = Place::new();
    for file in ["skein.toml", "data.csv"] {
        fs::copy(sample(generation, file), place.path(file)).unwrap();
    }
    place
}

/// A database with the content that a generation wrote.
fn database(place: &Place, generation: u32) -> Database {
    fs::create_dir_all(place.path("redis/data")).unwrap();
    fs::copy(sample(generation, "dump.rdb"), place.path("redis/data/dump.rdb")).unwrap();
    Database::start(place, "redis", &[])
}

/// Arguments of a command for that database.
fn at_database<'a>(command: &[&'a str], url: &'a str, password: &'a str) -> Vec<&'a str> {
    [command, &["--redis", url, "--password-file", password]].concat()
}

#[test]
fn a_manifest_trains_or_is_refused_with_the_names_of_today() {
    for generation in 1..GENERATION {
        let error = job(generation).fails(&["train"]);
        let words = ["unknown field `faults`", "did you mean `byzantine` or `crashed`?"];
        assert!(words.iter().all(|words| error.contains(words)), "generation {generation}: {error}");
    }
    assert_eq!(job(GENERATION).json(&["train"])["rounds"], 3);
}

#[test]
fn a_checkpoint_is_read_or_refused_with_both_versions() {
    let place = job(GENERATION);
    fs::copy(sample(1, "checkpoint.safetensors"), place.path("old.safetensors")).unwrap();
    for command in ["eval", "export"] {
        let arguments = [command, "--checkpoint", "old.safetensors", "--to", "new.onnx"];
        let error = place.fails(if command == "eval" { &arguments[..3] } else { &arguments });
        assert!(
            error.contains("has the format `skein-checkpoint-1`, this program reads `skein-checkpoint-4`"),
            "{error}"
        );
        assert!(error.contains("with the program that wrote it"), "{error}");
    }
    let place = job(GENERATION);
    fs::copy(sample(GENERATION, "checkpoint.safetensors"), place.path("now.safetensors")).unwrap();
    assert_eq!(place.json(&["eval", "--checkpoint", "now.safetensors"])["round"], 3);
}

#[test]
fn a_record_is_read_or_refused_with_its_version() {
    // The first generation's began with the digest of the job, not with a version.
    let old = fs::read(sample(1, "record")).unwrap();
    assert_eq!(Unverified::decode(&old).err(), Some(RecordError::Malformed));
    let old = fs::read(sample(3, "record")).unwrap();
    assert_eq!(Unverified::decode(&old).err(), Some(RecordError::Version(2)));
    let now = fs::read(sample(GENERATION, "record")).unwrap();
    assert_eq!(Unverified::decode(&now).unwrap().verify(&Ed25519).unwrap().encode(), now);
}

#[test]
fn an_invitation_is_read_or_refused_with_both_versions() {
    let now = fs::read_to_string(sample(GENERATION, "invitation")).unwrap();
    let place = Place::new();
    let load = |name: &str, text: &str| {
        // Only its owner may read it, which a checkout does not keep.
        skein_redis::secret::create(&place.path(name), text).unwrap();
        Invitation::load(&place.path(name))
    };
    let invitation = load("now", &now).unwrap();
    assert_eq!(invitation.reader, PeerId([2; 32]));
    assert_eq!(invitation.to_text(), now);
    let error = load("later", &now.replace("version = 1", "version = 2\nmore = 3")).unwrap_err().to_string();
    let words = ["has version 2, this program reads version 1", "another invitation"];
    assert!(words.iter().all(|words| error.contains(words)), "{error}");
}

/// Values of the module are in the format of the first generation to this day; names of keys are not.
#[test]
fn a_database_is_read_or_refused_with_both_versions() {
    let place = job(1);
    let _database = database(&place, 1);
    let owner = skein_redis::provision::owner(&place.path("redis")).unwrap();
    // A run id of today, which the older program never knew.
    let scope = Scope { run: Digest([1; 32]), peer: PeerId([2; 32]), values: 6 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(async { skein_redis::open(&owner, scope).await.map(drop).unwrap_err() }).to_string();
    assert!(error.contains("it holds a run in format 1 of the keys, this program uses format 3"), "{error}");

    let url = format!("unix://owner@{}/redis.sock", place.path("redis").display());
    let password = place.path("redis/owner.password").display().to_string();
    let error = place.fails(&at_database(&["worker", "--peer", &key()], &url, &password));
    assert!(error.contains("its host uses format 1 of the keys, this worker format 3"), "{error}");
}

#[test]
fn workers_find_a_job_of_their_own_version() {
    let place = job(GENERATION);
    let _database = database(&place, GENERATION);
    let url = format!("unix://owner@{}/redis.sock", place.path("redis").display());
    let password = place.path("redis/owner.password").display().to_string();
    // The sample lacks the component, which is what a worker asks for once it has read the rest.
    let error = place.fails(&at_database(&["worker", "--peer", &key()], &url, &password));
    assert!(error.contains("the database has nothing under the digest"), "{error}");
}
