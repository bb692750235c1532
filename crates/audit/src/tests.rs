#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;

use serde_json::json;

use super::*;

const SOON: Duration = Duration::from_secs(10);

fn refusal<'a>(client: &'a str, topic: Option<&'a str>) -> Refusal<'a> {
    Refusal {
        what: What::Publish,
        why: "no rule allows it",
        client,
        user: Some("anna"),
        remote: Some("10.0.0.1:999".parse().unwrap()),
        topic,
    }
}

fn change(target: &str) -> Change<'_> {
    Change {
        action: "user.add",
        target,
        remote: None,
        outcome: "done",
        details: json!({ "superuser": false }),
    }
}

fn lines(path: &PathBuf) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

use serde_json::Value;

fn file() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    (directory, path)
}

#[test]
fn changes_and_refusals_are_lines_of_json() {
    let (_directory, path) = file();
    let audit = Audit::start("n1", Some(&path)).unwrap();
    audit.change(&change("bert"));
    audit.refused(&refusal("c\n1", Some("a/b")));
    audit.flush(SOON);
    let lines = lines(&path);
    assert_eq!(lines.len(), 2);
    let mut told = lines[0].clone();
    assert!(told["time"].as_str().unwrap().ends_with('Z'));
    told.as_object_mut().unwrap().remove("time");
    assert_eq!(
        told,
        json!({
            "node": "n1", "event": "change", "action": "user.add", "target": "bert", "outcome": "done",
            "details": { "superuser": false },
        })
    );
    let mut told = lines[1].clone();
    told.as_object_mut().unwrap().remove("time");
    assert_eq!(
        told,
        json!({
            "node": "n1", "event": "refused", "what": "publish", "why": "no rule allows it", "client": "c\n1",
            "user": "anna", "remote": "10.0.0.1:999", "topic": "a/b",
        })
    );
}

#[test]
fn only_the_owner_reads_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_directory, path) = file();
    let _audit = Audit::start("n1", Some(&path)).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_flood_is_told_once_and_counted() {
    let (_directory, path) = file();
    let audit = Audit::start("n1", Some(&path)).unwrap();
    for number in 0..50_000 {
        audit.refused(&refusal("c1", Some(&format!("t/{number}"))));
    }
    audit.refused(&refusal("c2", None));
    audit.flush(SOON);
    let lines = lines(&path);
    let of_c1: Vec<_> = lines.iter().filter(|line| line["client"] == "c1").collect();
    assert!(of_c1.len() <= 4, "{} lines", of_c1.len());
    let told: u64 = of_c1
        .iter()
        .map(|line| line["repeated"].as_u64().unwrap_or(1))
        .sum();
    assert_eq!(told, 50_000);
    assert_eq!(of_c1.last().unwrap()["topic"], "t/49999");
}

#[test]
fn a_flood_under_many_names_stays_small_and_hides_no_change() {
    let (_directory, path) = file();
    let audit = Audit::start("n1", Some(&path)).unwrap();
    for number in 0..20_000 {
        audit.refused(&refusal(&format!("c{number}"), None));
        if number % 1000 == 0 {
            audit.change(&change("x"));
        }
    }
    audit.flush(SOON);
    let lines = lines(&path);
    let changes = lines.iter().filter(|line| line["event"] == "change");
    assert_eq!(changes.count(), 20);
    assert!(lines.len() <= 20 + 1024 + 2, "{} lines", lines.len());
    let told: u64 = lines
        .iter()
        .filter(|line| line["event"] == "refused")
        .map(|line| line["repeated"].as_u64().unwrap_or(1))
        .sum();
    assert_eq!(told, 20_000);
}

#[test]
fn a_window_ends() {
    let mut flood = Flood::default();
    let start = Instant::now();
    assert!(flood.admit(&refusal("c", None), start));
    assert!(!flood.admit(&refusal("c", None), start));
    assert!(flood.take_over(start + Duration::from_secs(9)).is_empty());
    assert_eq!(flood.take_over(start + SOON).len(), 1);
    assert!(flood.admit(&refusal("c", None), start + SOON));
    // Nothing repeated: nothing to tell, and nothing kept.
    assert!(flood.take_over(start + SOON * 2).is_empty());
    assert!(flood.admit(&refusal("c", None), start + SOON * 2));
}

#[test]
fn after_a_rotation_the_new_file_is_written() {
    let (directory, path) = file();
    let audit = Audit::start("n1", Some(&path)).unwrap();
    audit.change(&change("before"));
    audit.flush(SOON);
    let moved = directory.path().join("audit.1");
    std::fs::rename(&path, &moved).unwrap();
    audit.change(&change("between"));
    audit.flush(SOON);
    audit.reopen();
    audit.change(&change("after"));
    audit.flush(SOON);
    assert_eq!(lines(&moved).len(), 2);
    assert_eq!(lines(&path)[0]["target"], "after");
}

#[test]
fn a_rotation_is_not_missed_when_there_is_no_room_to_tell_of_it() {
    let (directory, path) = file();
    let log = AuditFile::open(&path).unwrap();
    let moved = directory.path().join("audit.1");
    std::fs::rename(&path, &moved).unwrap();
    let shared = Shared::default();
    shared.is_moved.store(true, Ordering::Release);
    let (sender, receiver) = sync_channel(1);
    let line = Line::of_change("n1", &change("after"));
    sender.send(Message::Change(line)).unwrap();
    drop(sender);
    log.write_all_of(&receiver, &shared);
    assert_eq!(lines(&moved).len(), 0);
    assert_eq!(lines(&path)[0]["target"], "after");
}

#[test]
fn long_texts_of_clients_are_cut() {
    let (_directory, path) = file();
    let audit = Audit::start("n1", Some(&path)).unwrap();
    let long = "ä".repeat(40_000);
    audit.refused(&refusal(&long, Some(&long)));
    audit.flush(SOON);
    assert!(std::fs::metadata(&path).unwrap().len() < 1000);
}

#[test]
fn a_file_that_cannot_be_opened_is_told_at_the_start() {
    let error = Audit::start("n1", Some(Path::new("/nonexistent/audit"))).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/audit"));
}
