//! Where in a YAML document each key's value stands.
//!
//! The recipe's own structs stay free of positions: the document is read a second time into a tree of
//! positions, in which a key path (`stage1.batch`) is looked up only when there is something to say about it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// Line and column in a document, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Line, from 1.
    pub line: u64,
    /// Column in characters, from 1.
    pub column: u64,
}

impl From<serde_saphyr::Location> for Place {
    fn from(location: serde_saphyr::Location) -> Self {
        Place { line: location.line(), column: location.column() }
    }
}

/// The positions of a document's values.
pub(crate) struct Document {
    root: Option<Spanned<Node>>,
}

enum Node {
    Map(Vec<(String, Spanned<Node>)>),
    Sequence(Vec<Spanned<Node>>),
    Scalar,
}

impl Document {
    /// Reads the positions; a document that is no YAML has none.
    pub(crate) fn read(yaml: &str) -> Self {
        let options = serde_saphyr::options! {
            non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::PassThrough,
        };
        Document { root: serde_saphyr::from_str_with_options(yaml, options).ok() }
    }

    /// The place of `key`'s value, or of its nearest ancestor that is written down: a value that was left to its
    /// default has no place of its own.
    pub(crate) fn place(&self, key: &str) -> Option<Place> {
        let mut here = self.root.as_ref()?;
        let mut found = None;
        for step in steps(key) {
            let child = match (&here.value, step) {
                (Node::Map(entries), Step::Key(name)) => {
                    entries.iter().find(|(key, _)| key == name).map(|(_, child)| child)
                }
                (Node::Sequence(items), Step::Index(index)) => items.get(index),
                _ => None,
            };
            match child {
                Some(child) => here = child,
                None => return found,
            }
            found = Some(Place::from(here.referenced));
        }
        found
    }

    /// The path of the key whose value starts at `place`.
    pub(crate) fn key_at(&self, place: Place) -> Option<String> {
        fn search(node: &Spanned<Node>, path: String, place: Place) -> Option<String> {
            let deeper = match &node.value {
                Node::Map(entries) => entries.iter().find_map(|(key, child)| {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    search(child, path, place)
                }),
                Node::Sequence(items) => {
                    items.iter().enumerate().find_map(|(index, child)| search(child, format!("{path}[{index}]"), place))
                }
                Node::Scalar => None,
            };
            // A block mapping starts where its first key does, which is no value's place.
            let itself = matches!(node.value, Node::Scalar) && Place::from(node.referenced) == place;
            deeper.or_else(|| itself.then_some(path))
        }
        search(self.root.as_ref()?, String::new(), place)
    }
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// `datasets[1].name` is the key `datasets`, the index 1, the key `name`.
fn steps(key: &str) -> impl Iterator<Item = Step<'_>> {
    key.split(['.', '[']).map(|part| match part.strip_suffix(']').and_then(|index| index.parse().ok()) {
        Some(index) => Step::Index(index),
        None => Step::Key(part),
    })
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key()? {
            entries.push((key, map.next_value()?));
        }
        Ok(Node::Map(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Node::Sequence(items))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        IgnoredAny::deserialize(deserializer)?;
        Ok(Node::Scalar)
    }
}
