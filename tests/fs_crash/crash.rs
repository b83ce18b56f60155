//! Every state that a crash at any moment of a recorded workload may leave, and whether recovery may answer as it does.
//!
//! The model of a crash: what a sync covered is there. Of all other changes any may be missing, except that changes of one
//! name persist in their order, a rename is there with both its names or not at all, and a sector of 512 bytes is written whole
//! or not at all. A sync of a file covers its content, and its attributes unless only the content was asked for; a sync of
//! a directory covers its entries, not what is behind them.

use std::collections::HashMap;

use crate::disk::{Disk, Op};
use crate::recorder::Event;
use crate::tree::Tree;

/// With so few changes pending, every set of them that the order of changes of one name allows is left.
const EVERY_SET: usize = 10;

/// With so few changes pending, every two of them are lost together, or are there alone.
const EVERY_PAIR: usize = 24;

/// What was looked at.
#[derive(Debug, Default)]
pub struct Report {
    /// Moments at which the workload was stopped.
    pub moments: usize,
    /// States left, counted at each moment.
    pub left: usize,
    /// Different ones.
    pub different: usize,
    /// Trees that recovery answered, different ones.
    pub answers: usize,
}

/// A set of changes, by their numbers.
type Set = Vec<bool>;

struct History {
    /// With all changes that nothing can take away any more.
    base: Disk,
    ops: Vec<Op>,
    durable: Set,
    /// For each change, those that it needs, and itself.
    needs: Vec<Set>,
}

impl History {
    fn push(&mut self, op: &Op) {
        let mut needs = vec![false; self.ops.len() + 1];
        needs[self.ops.len()] = true;
        for (earlier, before) in self.ops.iter().enumerate() {
            if op.needs(before) {
                for (all, need) in needs.iter_mut().zip(&self.needs[earlier]) {
                    *all |= need;
                }
            }
        }
        self.ops.push(op.clone());
        self.durable.push(false);
        self.needs.push(needs);
    }

    fn sync(&mut self, ino: u64, content_only: bool) {
        for at in 0..self.ops.len() {
            if self.ops[at].is_covered(ino, content_only) {
                for (durable, needed) in self.durable.iter_mut().zip(&self.needs[at]) {
                    *durable |= needed;
                }
            }
        }
        let done = self.durable.iter().take_while(|durable| **durable).count();
        self.ops.drain(..done).for_each(|op| self.base.apply(&op));
        self.durable.drain(..done);
        self.needs.drain(..done);
        for needs in &mut self.needs {
            needs.drain(..done);
        }
    }

    /// The changes that need one of these.
    fn lost_with(&self, lost: usize) -> Set {
        let needs = |at: usize| self.needs[at].get(lost).copied().unwrap_or(false);
        (0..self.ops.len()).map(needs).collect()
    }

    /// All sets of pending changes to look at, and for each which change, if any, is torn how.
    fn sets(&self) -> Vec<(Set, Option<(usize, Tear)>)> {
        let n = self.ops.len();
        let pending: Vec<usize> = (0..n).filter(|&at| !self.durable[at]).collect();
        let all: Set = vec![true; n];
        let none = self.durable.clone();
        let without = |lost: &[usize]| {
            let lost: Vec<Set> = lost.iter().map(|&at| self.lost_with(at)).collect();
            (0..n)
                .map(|at| !lost.iter().any(|l| l[at]))
                .collect::<Set>()
        };
        let only = |kept: &[usize]| {
            let mut set = none.clone();
            for &at in kept {
                for (all, need) in set.iter_mut().zip(&self.needs[at]) {
                    *all |= need;
                }
            }
            set
        };
        let mut sets = vec![all.clone(), none.clone()];
        if pending.len() <= EVERY_SET {
            for mask in 0..1usize << pending.len() {
                let kept = pending.iter().enumerate();
                let kept: Vec<usize> = kept
                    .filter(|(bit, _)| mask >> bit & 1 == 1)
                    .map(|(_, &at)| at)
                    .collect();
                sets.push(only(&kept));
            }
        } else {
            for (i, &one) in pending.iter().enumerate() {
                sets.extend([without(&[one]), only(&[one])]);
                // As if the journal ended there.
                sets.push((0..n).map(|at| at <= one || none[at]).collect());
                if pending.len() <= EVERY_PAIR {
                    for &two in &pending[..i] {
                        sets.extend([without(&[one, two]), only(&[one, two])]);
                    }
                }
            }
        }
        let mut out: Vec<_> = sets.into_iter().map(|set| (set, None)).collect();
        for &torn in &pending {
            for tear in Tear::of(&self.ops[torn]) {
                out.push((all.clone(), Some((torn, tear))));
                out.push((only(&[torn]), Some((torn, tear))));
            }
        }
        out
    }

    fn state(&self, set: &Set, torn: Option<(usize, Tear)>) -> Disk {
        let mut disk = self.base.clone();
        for (at, op) in self.ops.iter().enumerate().filter(|(at, _)| set[*at]) {
            match torn {
                Some((torn, tear)) if torn == at => {
                    for part in op.torn(|sector| tear.keeps(sector)) {
                        disk.apply(&part);
                    }
                }
                _ => disk.apply(op),
            }
        }
        disk
    }
}

/// How a write is torn.
#[derive(Debug, Clone, Copy)]
enum Tear {
    /// Only so many sectors are there.
    First(usize),
    /// Only the sectors from here on are there.
    From(usize),
}

impl Tear {
    fn of(op: &Op) -> Vec<Tear> {
        let n = op.sectors();
        let cuts: Vec<usize> = if n <= 8 {
            (1..n).collect()
        } else {
            vec![1, 2, n / 2, n - 1]
        };
        let both = |cut| [Tear::First(cut), Tear::From(cut)];
        cuts.into_iter().flat_map(both).collect()
    }

    fn keeps(self, sector: usize) -> bool {
        match self {
            Tear::First(n) => sector < n,
            Tear::From(n) => sector >= n,
        }
    }
}

/// Recovers what a crash left, and answers what is to be seen then.
pub type Recover<'a> = dyn FnMut(&Disk) -> Result<Tree, String> + 'a;

/// Stops the workload at every moment.
pub fn every_crash(
    name: &str,
    base: Disk,
    first: Tree,
    events: &[Event],
    recover: &mut Recover<'_>,
) -> Result<Report, String> {
    let mut history = History {
        base,
        ops: Vec::new(),
        durable: Vec::new(),
        needs: Vec::new(),
    };
    let mut allowed = vec![first];
    let mut answers: HashMap<blake3::Hash, Result<Tree, String>> = HashMap::new();
    let mut report = Report::default();
    for (at, event) in events.iter().enumerate() {
        match event {
            Event::Change(op) => history.push(op),
            Event::Sync { ino, content_only } => history.sync(*ino, *content_only),
            Event::Attempt(tree) => {
                allowed.push(tree.clone());
                continue;
            }
            Event::Durable(tree) => allowed = vec![tree.clone()],
        }
        report.moments += 1;
        for (set, torn) in history.sets() {
            report.left += 1;
            let disk = history.state(&set, torn);
            let answer = answers.entry(disk.hash()).or_insert_with(|| recover(&disk));
            if answer.as_ref().is_ok_and(|tree| allowed.contains(tree)) {
                continue;
            }
            let missing = (0..set.len()).filter(|&i| !set[i]);
            let missing: Vec<String> = missing.map(|i| short(&history.ops[i])).collect();
            let before = events[..=at].iter().rev().take(12).rev();
            let before: Vec<String> = before.map(describe).collect();
            return Err(format!(
                "{name}: a crash after event {at} leaves {answer:#?}\nallowed: {allowed:#?}\nlost: {}\ntorn: {:?}\nlast events:\n{}",
                missing.join(", "),
                torn.map(|(i, tear)| (short(&history.ops[i]), tear)),
                before.join("\n"),
            ));
        }
    }
    report.different = answers.len();
    let mut trees: Vec<&Tree> = Vec::new();
    for tree in answers.values().flatten() {
        if !trees.contains(&tree) {
            trees.push(tree);
        }
    }
    report.answers = trees.len();
    Ok(report)
}

fn describe(event: &Event) -> String {
    match event {
        Event::Change(op) => format!("  {}", short(op)),
        Event::Sync { ino, content_only } => format!("  sync {ino} content only: {content_only}"),
        Event::Attempt(_) => "  a new tree may be found".to_string(),
        Event::Durable(_) => "  only the last tree may be found".to_string(),
    }
}

fn short(op: &Op) -> String {
    match op {
        Op::Write { ino, offset, bytes } => {
            format!("write {} bytes at {offset} of {ino}", bytes.len())
        }
        Op::Make { at, ino, .. } => format!("make {ino} {at:?}"),
        Op::Xattr { ino, name, .. } => format!("attribute {name:?} of {ino}"),
        other => format!("{other:?}"),
    }
}
