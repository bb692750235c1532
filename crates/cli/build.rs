//! Reads the documentation of the settings from their structs, so that `--help` and `docs/configuration.md` say what the code says.

#![allow(clippy::unwrap_used, reason = "a build script fails by panicking")]

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

/// The files that hold a section of the settings.
const SOURCES: [&str; 10] = [
    "src/config/settings.rs",
    "src/config/cluster_settings.rs",
    "../broker/src/listener.rs",
    "../broker/src/connection.rs",
    "../broker/src/session_limits.rs",
    "../broker/src/mailbox.rs",
    "../broker/src/sys_topics.rs",
    "../broker/src/opening.rs",
    "../auth/src/config.rs",
    "../admin/src/config.rs",
];

fn main() {
    let root = env::var("CARGO_MANIFEST_DIR").unwrap();
    let mut table = String::from("&[\n");
    for source in SOURCES {
        let path = Path::new(&root).join(source);
        println!("cargo::rerun-if-changed={}", path.display());
        let text =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = syn::parse_file(&text).unwrap();
        for item in file.items {
            if let syn::Item::Struct(section) = item {
                describe(&section, &mut table);
            }
        }
    }
    table.push(']');
    fs::write(
        Path::new(&env::var("OUT_DIR").unwrap()).join("field_docs.rs"),
        table,
    )
    .unwrap();
}

/// Appends `(struct, field, documentation)` for each field, in the order of the source.
fn describe(section: &syn::ItemStruct, table: &mut String) {
    for field in &section.fields {
        let Some(name) = &field.ident else { continue };
        let documentation = doc_of(&field.attrs);
        writeln!(
            table,
            "({:?}, {:?}, {documentation:?}),",
            section.ident.to_string(),
            name.to_string()
        )
        .unwrap();
    }
}

/// A doc comment as paragraphs, without the line breaks of the source.
fn doc_of(attributes: &[syn::Attribute]) -> String {
    let mut text = String::new();
    for attribute in attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("doc"))
    {
        let syn::Meta::NameValue(meta) = &attribute.meta else {
            continue;
        };
        let syn::Expr::Lit(syn::ExprLit {
            lit: syn::Lit::Str(line),
            ..
        }) = &meta.value
        else {
            continue;
        };
        let line = line.value();
        match line.trim() {
            "" => text.push_str("\n\n"),
            line if text.is_empty() || text.ends_with('\n') => text.push_str(line),
            line => {
                text.push(' ');
                text.push_str(line);
            }
        }
    }
    text
}
