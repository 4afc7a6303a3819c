//! docs/api/arenite-core.txt lists the public interface of `arenite-core`, so that a change of it is seen in review.
//!
//! The listing is made from the source, with `syn`, so that it needs no toolchain but the project's own. It holds what
//! lib.rs names: its public modules, what it re-exports, exported macros, and the inherent methods and traits of those
//! types. Bodies, private fields and documentation are left out. To write it anew after a change:
//!
//! `ARENITE_API=write cargo test -p arenite-house --test api`

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use syn::{Attribute, Fields, File, ImplItem, Item, ItemImpl, TraitItem, Type, UseTree, Visibility};

fn core_src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/src")
}

/// Everything that is parsed: items by the path of the module that they are in.
type Modules = BTreeMap<String, Vec<Item>>;

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// Attributes that matter to a user; all else goes.
fn keep_attributes(attributes: &mut Vec<Attribute>) {
    let kept = ["derive", "non_exhaustive", "must_use", "repr", "cfg", "deprecated", "macro_export"];
    attributes.retain(|attribute| kept.iter().any(|name| attribute.path().is_ident(name)));
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && matches!(attribute.parse_args::<syn::Path>(), Ok(path) if path.is_ident("test"))
    })
}

fn is_hidden(attributes: &[Attribute]) -> bool {
    let hidden =
        |attribute: &Attribute| matches!(attribute.parse_args::<syn::Path>(), Ok(path) if path.is_ident("hidden"));
    attributes.iter().any(|attribute| attribute.path().is_ident("doc") && !is_text(attribute) && hidden(attribute))
}

/// Whether this is a line of documentation.
fn is_text(attribute: &Attribute) -> bool {
    attribute.meta.require_name_value().is_ok()
}

/// Reads a module's file and those of its children.
fn load(folder: &Path, file: &Path, path: &str, modules: &mut Modules) {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let File { items, .. } = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    for item in &items {
        if let Item::Mod(module) = item {
            if module.content.is_none() && !is_test(&module.attrs) {
                let name = module.ident.to_string();
                let (flat, deep) = (folder.join(format!("{name}.rs")), folder.join(&name).join("mod.rs"));
                let file = if flat.is_file() { flat } else { deep };
                load(&folder.join(&name), &file, &format!("{path}::{name}"), modules);
            }
        }
    }
    modules.insert(path.to_owned(), items);
}

/// The names at the leaves of a `use`, as they are called afterwards and as they were before.
fn leaves(tree: &UseTree, found: &mut BTreeMap<String, String>) {
    match tree {
        UseTree::Path(path) => leaves(&path.tree, found),
        UseTree::Name(name) => drop(found.insert(name.ident.to_string(), name.ident.to_string())),
        UseTree::Rename(name) => drop(found.insert(name.rename.to_string(), name.ident.to_string())),
        UseTree::Group(group) => group.items.iter().for_each(|tree| leaves(tree, found)),
        UseTree::Glob(_) => panic!("a glob among the re-exports: the listing cannot follow it"),
    }
}

fn name_of(item: &Item) -> Option<(String, bool)> {
    let (name, visibility) = match item {
        Item::Struct(item) => (&item.ident, &item.vis),
        Item::Enum(item) => (&item.ident, &item.vis),
        Item::Trait(item) => (&item.ident, &item.vis),
        Item::Fn(item) => (&item.sig.ident, &item.vis),
        Item::Const(item) => (&item.ident, &item.vis),
        Item::Static(item) => (&item.ident, &item.vis),
        Item::Type(item) => (&item.ident, &item.vis),
        _ => return None,
    };
    Some((name.to_string(), is_public(visibility)))
}

/// The names that users can write: those in public modules, and those that are re-exported.
fn public_names(modules: &Modules) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut names, mut listing) = (BTreeSet::new(), BTreeSet::new());
    let mut open = vec!["arenite_core".to_owned()];
    while let Some(path) = open.pop() {
        for item in modules.get(&path).into_iter().flatten() {
            match item {
                Item::Mod(module) if is_public(&module.vis) && !is_hidden(&module.attrs) => {
                    open.push(format!("{path}::{}", module.ident));
                    listing.insert(format!("pub mod {path}::{}", module.ident));
                }
                Item::Use(item) if is_public(&item.vis) => {
                    let mut found = BTreeMap::new();
                    leaves(&item.tree, &mut found);
                    for (name, before) in found {
                        listing.insert(format!("pub use {path}::{name}"));
                        names.insert(before);
                    }
                }
                other => {
                    if let Some((name, true)) = name_of(other) {
                        listing.insert(format!("pub {path}::{name}"));
                        names.insert(name);
                    }
                }
            }
        }
    }
    (names, listing)
}

fn strip_fields(fields: &mut Fields) {
    let strip = |field: &mut syn::Field| keep_attributes(&mut field.attrs);
    match fields {
        Fields::Named(named) => {
            named.named = std::mem::take(&mut named.named).into_iter().filter(|field| is_public(&field.vis)).collect();
            named.named.iter_mut().for_each(strip);
        }
        Fields::Unnamed(unnamed) => unnamed.unnamed.iter_mut().for_each(strip),
        Fields::Unit => {}
    }
}

fn empty() -> syn::Block {
    syn::parse_quote!({})
}

/// The item without bodies, private fields and documentation.
fn strip(mut item: Item) -> Item {
    match &mut item {
        Item::Struct(item) => {
            keep_attributes(&mut item.attrs);
            strip_fields(&mut item.fields);
        }
        Item::Enum(item) => {
            keep_attributes(&mut item.attrs);
            for variant in &mut item.variants {
                keep_attributes(&mut variant.attrs);
                for field in &mut variant.fields {
                    keep_attributes(&mut field.attrs);
                }
            }
        }
        Item::Trait(item) => {
            keep_attributes(&mut item.attrs);
            for method in &mut item.items {
                if let TraitItem::Fn(method) = method {
                    keep_attributes(&mut method.attrs);
                    method.default = method.default.take().map(|_| empty());
                }
            }
        }
        Item::Fn(item) => {
            keep_attributes(&mut item.attrs);
            *item.block = empty();
        }
        Item::Const(item) => keep_attributes(&mut item.attrs),
        Item::Static(item) => keep_attributes(&mut item.attrs),
        Item::Type(item) => keep_attributes(&mut item.attrs),
        _ => {}
    }
    item
}

/// An `impl` of a public type, with what is public in it; of a trait, only its head.
fn strip_impl(mut item: ItemImpl, names: &BTreeSet<String>) -> Option<Item> {
    let Type::Path(of) = &*item.self_ty else { return None };
    if !names.contains(&of.path.segments.last()?.ident.to_string()) || is_test(&item.attrs) {
        return None;
    }
    keep_attributes(&mut item.attrs);
    if let Some((_, path, _)) = &item.trait_ {
        let private = path.segments.len() == 1 && path.segments[0].ident == "Sealed";
        item.items.clear();
        return (!private).then_some(Item::Impl(item));
    }
    item.items.retain(|member| match member {
        ImplItem::Fn(method) => is_public(&method.vis),
        ImplItem::Const(constant) => is_public(&constant.vis),
        _ => false,
    });
    for member in &mut item.items {
        match member {
            ImplItem::Fn(method) => {
                keep_attributes(&mut method.attrs);
                method.block = empty();
            }
            ImplItem::Const(constant) => {
                keep_attributes(&mut constant.attrs);
                constant.expr = syn::parse_quote!(_);
            }
            _ => {}
        }
    }
    (!item.items.is_empty()).then_some(Item::Impl(item))
}

fn listing() -> String {
    let mut modules = Modules::new();
    load(&core_src(), &core_src().join("lib.rs"), "arenite_core", &mut modules);
    let (names, places) = public_names(&modules);
    let mut items = Vec::new();
    for item in modules.into_values().flatten() {
        match item {
            Item::Impl(item) => items.extend(strip_impl(item, &names)),
            Item::Macro(mut item) if item.attrs.iter().any(|attribute| attribute.path().is_ident("macro_export")) => {
                keep_attributes(&mut item.attrs);
                items.push(Item::Macro(item));
            }
            item if name_of(&item).is_some_and(|(name, public)| public && names.contains(&name)) => {
                items.push(strip(item))
            }
            _ => {}
        }
    }
    let mut blocks: Vec<String> = items
        .into_iter()
        .map(|item| prettyplease::unparse(&File { shebang: None, attrs: Vec::new(), items: vec![item] }))
        .collect();
    blocks.sort();
    let places: Vec<String> = places.into_iter().collect();
    format!("{}\n\n{}", places.join("\n"), blocks.join("\n"))
}

#[test]
fn the_listing_of_the_interface_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/api/arenite-core.txt");
    let now = listing();
    for must in ["pub use arenite_core::Store", "pub fn commit(&self, roots: Roots)", "pub trait Device<'m>"] {
        assert!(now.contains(must), "the listing lacks `{must}`");
    }
    assert!(!now.contains("crate fn") && !now.contains("pub(crate) fn"), "private items in the listing");
    if std::env::var_os("ARENITE_API").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &now).unwrap();
    }
    let listed = fs::read_to_string(&path).unwrap_or_default();
    let difference = now.lines().zip(listed.lines()).find(|(now, listed)| now != listed);
    assert!(
        now == listed,
        "the public interface of arenite-core has changed, first at {difference:?}. If that is meant: \
         ARENITE_API=write cargo test -p arenite-house --test api, and say so in CHANGELOG.md"
    );
}
