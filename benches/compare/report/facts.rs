//! On what machine, when and how something was measured.

#![forbid(unsafe_code)]

/// What a reader must know to judge the figures, or to measure them again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) date: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) commit: String,
    pub(crate) rust: String,
    pub(crate) command: String,
    pub(crate) seconds: u64,
}

impl Facts {
    /// Name and value of each, in the order in which they are told.
    pub(crate) fn rows(&self) -> Vec<(&'static str, String)> {
        vec![
            ("date", self.date.clone()),
            ("processor", format!("{}, {} cores", self.processor, self.cores)),
            ("kernel", self.kernel.clone()),
            ("commit", self.commit.clone()),
            ("rust", self.rust.clone()),
            ("command", self.command.clone()),
            ("took", format!("{} s", self.seconds)),
        ]
    }
}

/// A point of time as people write it, from seconds since 1970.
pub(crate) fn utc(seconds: u64) -> String {
    let (mut day, of_day) = (seconds / DAY, seconds % DAY);
    let mut year = 1970;
    while day >= days_of(year) {
        day -= days_of(year);
        year += 1;
    }
    let february = days_of(year) - 337;
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= months[month] {
        day -= months[month];
        month += 1;
    }
    let (hour, minute) = (of_day / 3600, of_day / 60 % 60);
    format!("{year}-{:02}-{:02} {hour:02}:{minute:02} UTC", month + 1, day + 1)
}

const fn days_of(year: u64) -> u64 {
    if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) {
        366
    } else {
        365
    }
}

const DAY: u64 = 86_400;
