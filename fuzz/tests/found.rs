//! Inputs that broke a promise once.

/// `r0` names `r1` twice, that names `r2` twice, and so on to an empty `r31`: not one word, two thousand million reads.
#[test]
fn response_files_that_double_end() {
    let mut input = vec![0];
    for next in 1..32 {
        input.extend(format!("@r{next} @r{next}\x01").bytes());
    }
    assert!(!dbuild_fuzz::run("response_file", &input));
}

/// Forty links, each to the next one and two thousand directories that are not there: a working directory that is
/// eighty thousand deep.
#[test]
fn links_do_not_make_endless_paths() {
    assert!(!dbuild_fuzz::run("input_tree", &links(40, 2000)));
}

/// The same, just above what the kernel takes.
#[test]
fn links_do_not_make_long_paths() {
    assert!(!dbuild_fuzz::run("input_tree", &links(7, 400)));
}

/// The working directory is the first link; each stands in one of the directories `d0`, `d1`, …, seven to each.
fn links(count: usize, depth: usize) -> Vec<u8> {
    let long = |text: &str| [&(text.len() as u16).to_le_bytes(), text.as_bytes()].concat();
    let name = |index: usize| format!("{index:02}");
    let mut rest: Vec<usize> = (0..count).collect();
    let mut dirs = Vec::new();
    let mut homes = Vec::new();
    while !rest.is_empty() {
        let here: Vec<usize> = rest.drain(..rest.len().min(7)).collect();
        homes.push(here);
    }
    let home = |index: usize| format!("/d{}/{}", index / 7, name(index));
    for here in &homes {
        let mut dir = vec![here.len() as u8];
        for &index in here {
            let next = if index + 1 < count { home(index + 1) } else { "/d0".to_owned() };
            let target = format!("{next}{}", "/x".repeat(depth));
            dir.extend([&[2, 2][..], name(index).as_bytes(), &long(&target)].concat());
        }
        dirs.push(dir);
    }
    let mut root = vec![homes.len() as u8];
    for index in 0..homes.len() {
        root.extend([&[3, 2][..], format!("d{index}").as_bytes(), &[index as u8]].concat());
    }
    dirs.push(root);
    let command = [vec![3], long(&home(0)[1..]), vec![0]].concat();
    [vec![0x80 | homes.len() as u8], dirs.concat(), command].concat()
}
