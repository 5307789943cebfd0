//! Who is who in a fleet: which people are one by merges, who is erased, and under which name each
//! is shown. It follows from the records of people alone, alike on every board.
//!
//! Not for pictures: a picture belongs to the representative of the person in its record.

use std::collections::{BTreeSet, HashMap};

use super::clock::Stamp;
use super::record::{Kind, NAME_CHARS, Record, Uid};
use crate::domain::hex;
use crate::names;

/// Lengths, in bytes of the uid, of what tells people of one name apart: the shortest that is free.
const TOLD_APART: [usize; 4] = [2, 4, 8, 16];

/// The fate of a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// A person of the gallery.
    Here {
        /// The name they are shown under: their own, or `Name (3f2a)` if an older person has that.
        /// No two people are shown under names that fold to the same; at most [`NAME_CHARS`]
        /// characters.
        shown: String,
    },
    /// Merged into another one, or into one who was.
    Merged {
        /// The person they are now, who is here.
        into: Uid,
    },
    /// Erased, or ever merged into a person who is. The keeper of the records replaces those of such a
    /// person, their pictures and counter-examples by [`Record::erased`].
    Erased,
}

/// The standing of all people of a fleet, kept up to date record by record.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    known: HashMap<Uid, Known>,
    /// The people merged into each; also into those who have no record yet.
    merged_from: HashMap<Uid, BTreeSet<Uid>>,
    who: HashMap<Uid, Who>,
    /// People who are here by their folded names, the oldest first.
    namesakes: HashMap<String, BTreeSet<(Stamp, Uid)>>,
    /// Names tried for telling namesakes apart: folded, and the folded name of the namesakes.
    tried: HashMap<String, String>,
    /// The same the other way round.
    tried_for: HashMap<String, Vec<String>>,
}

/// The part of a person's record that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    Erased,
    Alive {
        created: Stamp,
        name: String,
        folded: String,
        /// Latest merge first.
        merged: Vec<(Stamp, Uid)>,
    },
}

impl Known {
    fn of(record: &Record) -> Self {
        let Some(person) = record.person() else {
            return Self::Erased;
        };
        let merges = person.merged.iter();
        let mut merged: Vec<_> = merges.map(|(into, stamp)| (*stamp, *into)).collect();
        merged.sort_unstable_by(|a, b| b.cmp(a));
        Self::Alive {
            created: person.created,
            name: person.name.value.clone(),
            folded: names::fold(&person.name.value),
            merged,
        }
    }

    fn merged(&self) -> &[(Stamp, Uid)] {
        match self {
            Self::Erased => &[],
            Self::Alive { merged, .. } => merged,
        }
    }
}

impl Standing {
    /// Computes the standing of people from their records, in any order; those of other kinds are
    /// passed over.
    pub fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut standing = Self::default();
        for record in records {
            standing.take(record);
        }
        standing
    }

    /// Takes the newest version of a person's record and returns those for which [`Standing::who`] now
    /// says something else. The result is as if all records were taken anew.
    ///
    /// Time grows with the number of people merged into that one, and of their namesakes.
    pub fn take(&mut self, record: &Record) -> BTreeSet<Uid> {
        let (uid, known) = (*record.uid(), Known::of(record));
        if record.kind() != Kind::Person || self.known.get(&uid) == Some(&known) {
            return BTreeSet::new();
        }
        let former = self.known.insert(uid, known.clone());
        for (_, into) in former.iter().flat_map(Known::merged) {
            if let Some(from) = self.merged_from.get_mut(into) {
                from.remove(&uid);
            }
        }
        for (_, into) in known.merged() {
            self.merged_from.entry(*into).or_default().insert(uid);
        }
        let affected = self.with_those_merged_into(uid);
        let mut changed = BTreeSet::new();
        let mut names = BTreeSet::new();
        // The name that it had before: the new version may have another.
        if let (
            Some(Known::Alive {
                created, folded, ..
            }),
            Some(Who::Here { .. }),
        ) = (former, self.who.get(&uid))
        {
            self.leave(&folded, (created, uid), &mut names);
        }
        let erased = self.erased_among(&affected);
        for uid in affected {
            self.judge(uid, &erased, &mut names, &mut changed);
        }
        self.name_anew(names, &mut changed);
        changed
    }

    /// Returns what became of a person. `None`: there is no record of them yet.
    pub fn who(&self, uid: &Uid) -> Option<&Who> {
        self.who.get(uid)
    }

    /// Returns the person of the gallery that a uid stands for. `None`: there is no record of them
    /// yet, or they are erased.
    pub fn representative(&self, uid: &Uid) -> Option<Uid> {
        match self.who.get(uid)? {
            Who::Here { .. } => Some(*uid),
            Who::Merged { into } => Some(*into),
            Who::Erased => None,
        }
    }

    /// Returns everybody who has a record, in no order.
    pub fn people(&self) -> impl Iterator<Item = (&Uid, &Who)> {
        self.who.iter()
    }

    /// Returns the people with equal names, oldest first: each list is a question whether they are one
    /// person. It ends when they are merged, or all but one have another name.
    pub fn questions(&self) -> Vec<Vec<Uid>> {
        let of_one_name = self.namesakes.values().filter(|people| people.len() > 1);
        let mut questions: Vec<Vec<Uid>> = of_one_name
            .map(|people| people.iter().map(|(_, uid)| *uid).collect())
            .collect();
        questions.sort_unstable();
        questions
    }

    /// Returns a person and all who were ever merged into them, by however many steps: nobody else's
    /// standing depends on their record.
    fn with_those_merged_into(&self, uid: Uid) -> BTreeSet<Uid> {
        let mut affected = BTreeSet::from([uid]);
        self.add_those_merged_into(&mut affected);
        affected
    }

    fn add_those_merged_into(&self, people: &mut BTreeSet<Uid>) {
        let mut open: Vec<Uid> = people.iter().copied().collect();
        while let Some(uid) = open.pop() {
            for from in self.merged_from.get(&uid).into_iter().flatten() {
                if people.insert(*from) {
                    open.push(*from);
                }
            }
        }
    }

    /// Returns who of the affected people is erased: those with a tombstone, and all who were ever
    /// merged into one who is. What the others are is known.
    fn erased_among(&self, affected: &BTreeSet<Uid>) -> BTreeSet<Uid> {
        let is_erased = |uid: &&Uid| match self.known.get(*uid) {
            Some(Known::Erased) => true,
            Some(Known::Alive { merged, .. }) => merged.iter().any(|(_, into)| {
                !affected.contains(into) && self.who.get(into) == Some(&Who::Erased)
            }),
            None => false,
        };
        let mut erased = affected.iter().filter(is_erased).copied().collect();
        self.add_those_merged_into(&mut erased);
        erased
    }

    /// Returns the person that one is by merges: each time the latest merge into a person who
    /// has a record. Where that leads in a circle, the smallest uid of the circle.
    fn follow(&self, uid: Uid) -> Uid {
        let mut way = vec![uid];
        loop {
            let at = way[way.len() - 1];
            let merges = self.known.get(&at).into_iter().flat_map(Known::merged);
            let next = merges
                .map(|(_, into)| *into)
                .find(|into| self.known.contains_key(into));
            let Some(next) = next else { return at };
            if let Some(begin) = way.iter().position(|passed| *passed == next) {
                return way[begin..].iter().copied().min().unwrap_or(at);
            }
            way.push(next);
        }
    }

    /// Says who one of the affected people is; those who are here are shown under their own names
    /// until [`Standing::name_anew`].
    fn judge(
        &mut self,
        uid: Uid,
        erased: &BTreeSet<Uid>,
        names: &mut BTreeSet<String>,
        changed: &mut BTreeSet<Uid>,
    ) {
        let Some(Known::Alive {
            created,
            name,
            folded,
            ..
        }) = self.known.get(&uid)
        else {
            if self.who.insert(uid, Who::Erased) != Some(Who::Erased) {
                changed.insert(uid);
            }
            return;
        };
        let (place, folded, name) = ((*created, uid), folded.clone(), name.clone());
        let now = if erased.contains(&uid) {
            Who::Erased
        } else {
            match self.follow(uid) {
                into if into == uid => Who::Here { shown: name },
                into => Who::Merged { into },
            }
        };
        let before = self.who.get(&uid);
        match (&now, before) {
            (Who::Here { .. }, Some(Who::Here { .. })) => {
                self.join(&folded, place, names);
                return;
            }
            (Who::Here { .. }, _) => self.join(&folded, place, names),
            (_, Some(Who::Here { .. })) => self.leave(&folded, place, names),
            (now, before) if before == Some(now) => return,
            _ => {}
        }
        self.who.insert(uid, now);
        changed.insert(uid);
    }

    fn join(&mut self, folded: &str, place: (Stamp, Uid), names: &mut BTreeSet<String>) {
        let people = self.namesakes.entry(folded.into()).or_default();
        if people.insert(place) {
            names.insert(folded.into());
        }
    }

    fn leave(&mut self, folded: &str, place: (Stamp, Uid), names: &mut BTreeSet<String>) {
        let Some(people) = self.namesakes.get_mut(folded) else {
            return;
        };
        if people.remove(&place) {
            names.insert(folded.into());
        }
        if people.is_empty() {
            self.namesakes.remove(folded);
        }
    }

    /// Gives the people of some folded names the names they are shown under.
    fn name_anew(&mut self, mut names: BTreeSet<String>, changed: &mut BTreeSet<Uid>) {
        // A name that came or went may be free, or taken, for telling others apart.
        let others: Vec<_> = names
            .iter()
            .filter_map(|name| self.tried.get(name).cloned())
            .collect();
        names.extend(others);
        for folded in &names {
            for tried in self.tried_for.remove(folded).unwrap_or_default() {
                self.tried.remove(&tried);
            }
        }
        for folded in names {
            let people = self.namesakes.get(&folded).into_iter().flatten();
            let people: Vec<Uid> = people.map(|(_, uid)| *uid).collect();
            let younger: BTreeSet<Uid> = people.iter().skip(1).copied().collect();
            for (place, uid) in people.iter().enumerate() {
                let shown = if place == 0 {
                    self.own_name(uid).to_owned()
                } else {
                    self.told_apart(uid, &folded, &younger)
                };
                let now = Who::Here { shown };
                if self.who.get(uid) != Some(&now) {
                    self.who.insert(*uid, now);
                    changed.insert(*uid);
                }
            }
        }
    }

    fn own_name(&self, uid: &Uid) -> &str {
        match self.known.get(uid) {
            Some(Known::Alive { name, .. }) => name,
            _ => "",
        }
    }

    /// Returns a name with so much of the uid that no one else is shown under it: neither one of the
    /// others of that name, nor a person who is named so.
    fn told_apart(&mut self, uid: &Uid, folded: &str, others: &BTreeSet<Uid>) -> String {
        let name = self.own_name(uid).to_owned();
        let fits = |length: usize| name.chars().count() + 2 * length + 3 <= NAME_CHARS;
        // Uids that begin alike are neighbours.
        let neighbours = [
            others.range(..*uid).next_back(),
            others.range(*uid..).nth(1),
        ];
        let alone = |length: usize| {
            let mut near = neighbours.into_iter().flatten();
            near.all(|other| other[..length] != uid[..length])
        };
        // A name that has to be cut might be another's cut name, so it gets the whole uid.
        let short = TOLD_APART
            .into_iter()
            .filter(|length| fits(*length) && alone(*length))
            .map(|length| hex(&uid[..length]));
        // Another may have been given that very name; numbers never end.
        let long = (1..).map(|number: u64| format!("{}-{number}", hex(uid)));
        for mark in short.chain([hex(uid)]).chain(long) {
            let kept = NAME_CHARS - mark.len() - 3;
            let kept: String = name.chars().take(kept).collect();
            let shown = format!("{} ({mark})", kept.trim_end());
            let key = names::fold(&shown);
            let taken = self.namesakes.contains_key(&key);
            self.tried_for
                .entry(folded.into())
                .or_default()
                .push(key.clone());
            self.tried.insert(key, folded.into());
            if !taken {
                return shown;
            }
        }
        name
    }
}

#[cfg(test)]
mod tests;
