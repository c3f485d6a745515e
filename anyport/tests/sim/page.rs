//! docs/testing.md shows the worked example as it is.

#[test]
fn the_page_shows_the_code_of_the_example() {
    let page = include_str!("../../../docs/testing.md");
    let sources = [
        include_str!("../../../examples/tested_chat/main.rs"),
        include_str!("../../../examples/tested_chat/tests.rs"),
    ];
    let sources = sources.map(|source| source.lines().map(str::trim).collect::<Vec<_>>());
    let mut blocks = 0;
    for block in page.split("```rust").skip(1) {
        let code = block.split("```").next().unwrap_or_default();
        let lines: Vec<_> = code.trim().lines().map(str::trim).collect();
        let is_there = |source: &Vec<&str>| source.windows(lines.len()).any(|window| window == lines);
        assert!(sources.iter().any(is_there), "docs/testing.md shows what the example has not:\n{code}");
        blocks += 1;
    }
    assert!(blocks > 5, "only {blocks} pieces of code");
}
