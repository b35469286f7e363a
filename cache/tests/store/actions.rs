//! Action values: stored, replaced, removed, damaged.

use dbuild_cache::{ActionKey, MAX_ACTION_VALUE};

use crate::support::*;

const KEY: ActionKey = ActionKey([0xab; 32]);

#[test]
fn the_last_value_of_a_key_wins() {
    let Fixture { store, dir: _dir } = fixture();
    assert_eq!(store.action(&KEY).unwrap(), None);
    for value in [&b"one"[..], b"", b"three"] {
        store.put_action(&KEY, value).unwrap();
        assert_eq!(store.action(&KEY).unwrap().as_deref(), Some(value));
    }
    assert_eq!(store.action(&ActionKey([1; 32])).unwrap(), None);
    let usage = store.usage();
    assert_eq!((usage.actions, usage.action_bytes, usage.disk_bytes), (1, 48 + 5, 4096));
    assert_eq!(store.counters().disk_bytes, 4096, "replaced values are not counted twice");
    store.remove_action(&KEY).unwrap();
    store.remove_action(&KEY).unwrap();
    assert_eq!(store.action(&KEY).unwrap(), None);
}

#[test]
fn damaged_values_are_absent_and_counted() {
    let Fixture { store, dir: _dir } = fixture();
    let path = action_path(&store, &KEY);
    let damages: [&dyn Fn(); 5] =
        [&|| flip(&path, 0), &|| flip(&path, 4), &|| flip(&path, 50), &|| truncate(&path, 49), &|| {
            truncate(&path, 0)
        }];
    for (count, damage) in damages.iter().enumerate() {
        store.put_action(&KEY, b"value").unwrap();
        damage();
        assert_eq!(store.action(&KEY).unwrap(), None);
        assert_eq!(store.counters().damaged, count as u64 + 1);
        assert!(!path.exists());
    }
}

#[test]
fn a_value_under_another_name_is_damage() {
    let Fixture { store, dir: _dir } = fixture();
    let other = ActionKey([0xac; 32]);
    store.put_action(&KEY, b"value").unwrap();
    let to = action_path(&store, &other);
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::rename(action_path(&store, &KEY), &to).unwrap();
    assert_eq!(store.action(&other).unwrap(), None);
    assert_eq!(store.counters().damaged, 1);
}

#[test]
fn oversize_values_are_refused() {
    let Fixture { store, dir: _dir } = fixture();
    assert!(store.put_action(&KEY, &vec![0; MAX_ACTION_VALUE + 1]).unwrap_err().is_full());
    let value = vec![0; MAX_ACTION_VALUE];
    store.put_action(&KEY, &value).unwrap();
    assert_eq!(store.action(&KEY).unwrap(), Some(value));
}
