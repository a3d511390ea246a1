//! Properties of an event: any names with any values, flat. What is nested becomes `outer.inner`, lists their JSON.

use std::borrow::Cow;

use millrace_schemas::{repair::Repair, row::Properties};
use simd_json::{Node, StaticNode};

use crate::{
    field::Field,
    read::Reader,
    tape::{entries, write_json},
};

/// Longer names are cut.
const NAME_BYTES_MAX: usize = 256;

/// Reads the properties that `nodes` are, or whose JSON is a text there.
pub(crate) fn read<'t>(read: &Reader<'_, 't>, nodes: &'t [Node<'t>]) -> Properties<'t> {
    let name = Field::Properties.name();
    let nodes = match nodes[0] {
        Node::Object { .. } => nodes,
        Node::String(text) if let Some(parsed @ [Node::Object { .. }, ..]) = read.parse(text) => {
            read.note(name, Repair::Converted);
            parsed
        }
        // An empty list is what some languages make of an empty map.
        Node::Array { len: 0, .. } => return Vec::new(),
        _ => {
            read.note(name, Repair::Unreadable);
            return Vec::new();
        }
    };
    let Node::Object { len, .. } = nodes[0] else { return Vec::new() };
    let mut found =
        Flat { read, nodes, properties: Vec::with_capacity(len.min(read.limits().properties_max)) };
    found.add(0, "", 1);
    found.properties
}

struct Flat<'r, 'a, 't> {
    read: &'r Reader<'a, 't>,
    nodes: &'t [Node<'t>],
    properties: Properties<'t>,
}

impl<'t> Flat<'_, '_, 't> {
    /// Adds the entries of the object at `at`, which is the `level`th.
    fn add(&mut self, at: usize, outer: &str, level: usize) {
        let read = self.read;
        for (name, value) in entries(self.nodes, at) {
            let node = self.nodes[value];
            if node == Node::Static(StaticNode::Null) {
                continue;
            }
            if self.properties.len() >= read.limits().properties_max || read.is_full() {
                return read.note(Field::Properties.name(), Repair::Cut);
            }
            let name = self.name(outer, name);
            let value = match node {
                Node::Object { len, .. } if len > 0 && level < read.limits().nesting_max => {
                    read.note(Field::Properties.name(), Repair::Converted);
                    self.add(value, name, level + 1);
                    continue;
                }
                Node::Object { .. } | Node::Array { .. } => {
                    read.note(Field::Properties.name(), Repair::Converted);
                    let mut json = String::new();
                    write_json(self.nodes, value, read.limits().string_bytes_max + 1, &mut json);
                    read.fit(Field::Properties.name(), read.keep(&json), read.limits().string_bytes_max)
                }
                scalar => read.property_of(Field::Properties.name(), scalar),
            };
            self.put(name, value);
        }
    }

    fn name(&self, outer: &str, name: &'t str) -> &'t str {
        let read = self.read;
        let name = match read.legible(Field::Properties.name(), name) {
            name if outer.is_empty() => name,
            name => {
                let name = &name[..name.floor_char_boundary(NAME_BYTES_MAX)];
                read.keep(&format!("{outer}.{name}"))
            }
        };
        read.fit(Field::Properties.name(), name, NAME_BYTES_MAX)
    }

    fn put(&mut self, name: &'t str, value: &'t str) {
        match self.properties.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => {
                self.read.note(Field::Properties.name(), Repair::Duplicate);
                *known = Cow::Borrowed(value);
            }
            None => self.properties.push((name, Cow::Borrowed(value))),
        }
    }
}
