#[unsafe(no_mangle)]
pub extern "C" fn plug_doubled(number: u32) -> u32 {
    doubled(number)
}

pub fn doubled(number: u32) -> u32 {
    number * 2
}

#[cfg(test)]
mod tests {
    #[test]
    fn twice() {
        assert_eq!(super::doubled(2), 4);
    }
}
