//! Pictures as a reader of XML sees them.

use roxmltree::Document;
use std::collections::BTreeMap;

/// All text of a picture, which must be well-formed and stay inside its frame.
pub fn parse(svg: &str) -> String {
    let document = Document::parse(svg).unwrap();
    let root = document.root_element();
    assert_eq!((root.tag_name().name(), root.tag_name().namespace()), ("svg", Some("http://www.w3.org/2000/svg")));
    let number =
        |node: roxmltree::Node<'_, '_>, name: &str| node.attribute(name).map_or(0.0, |text| text.parse().unwrap());
    let (width, height): (f64, f64) = (number(root, "width"), number(root, "height"));
    for node in document.descendants().filter(|node| node.has_tag_name("rect") || node.has_tag_name("text")) {
        let (x, y): (f64, f64) = (number(node, "x"), number(node, "y"));
        assert!(x >= 0.0 && y >= 0.0 && x + number(node, "width") <= width && y + number(node, "height") <= height);
    }
    assert!(root.children().any(|node| node.has_tag_name("title")));
    document.descendants().filter(|node| node.is_text()).filter_map(|node| node.text()).collect()
}

/// How many rectangles there are of each class.
pub fn classes(svg: &str) -> BTreeMap<String, usize> {
    parse(svg);
    let document = Document::parse(svg).unwrap();
    let mut counts = BTreeMap::new();
    for node in document.descendants().filter(|node| node.has_tag_name("rect")) {
        *counts.entry(node.attribute("class").unwrap().to_owned()).or_default() += 1;
    }
    counts
}
