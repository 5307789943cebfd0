//! Optimal one-to-one assignment of rows to columns (tracks or sightings, and faces), by shortest augmenting
//! paths.
//!
//! H. W. Kuhn, "The Hungarian method for the assignment problem" (1955); R. Jonker and A. Volgenant,
//! "A shortest augmenting path algorithm for dense and sparse linear assignment problems" (1987).
//! Written for a few dozen rows: cubic, no initial heuristics.

/// Returns the column of each row such that no column is taken twice and the sum of the costs is
/// the least. `costs` has a slice of equal length for each row, at least as many columns as rows,
/// and finite numbers only.
pub fn assign(costs: &[Vec<f64>]) -> Vec<usize> {
    let columns = costs.first().map_or(0, Vec::len);
    debug_assert!(costs.len() <= columns || costs.is_empty());
    // Prices of rows and columns: no cost is below the sum of its two prices, and the cost of an
    // assigned pair equals it.
    let (mut of_row, mut of_column) = (vec![0.0; costs.len()], vec![0.0; columns]);
    let mut row_of: Vec<Option<usize>> = vec![None; columns];
    for start in 0..costs.len() {
        // The shortest path from `start` to a free column, as Dijkstra's algorithm finds it:
        // distance and column before each column, and the columns whose distance is final.
        let mut distance = vec![f64::INFINITY; columns];
        let mut before: Vec<Option<usize>> = vec![None; columns];
        let mut done = vec![false; columns];
        let (mut row, mut last, mut reached) = (start, None, 0.0);
        let end = loop {
            for column in (0..columns).filter(|column| !done[*column]) {
                let reduced = costs[row][column] - of_row[row] - of_column[column];
                if reached + reduced < distance[column] {
                    distance[column] = reached + reduced;
                    before[column] = last;
                }
            }
            let open = (0..columns).filter(|column| !done[*column]);
            let Some(next) = open.min_by(|a, b| distance[*a].total_cmp(&distance[*b])) else {
                return Vec::new();
            };
            (reached, done[next]) = (distance[next], true);
            match row_of[next] {
                None => break next,
                Some(taken) => (row, last) = (taken, Some(next)),
            }
        };
        of_row[start] += reached;
        for column in 0..columns {
            if done[column] && distance[column] < reached {
                of_column[column] -= reached - distance[column];
                if let Some(row) = row_of[column] {
                    of_row[row] += reached - distance[column];
                }
            }
        }
        // Each row on the path moves one column on.
        let mut column = end;
        while let Some(previous) = before[column] {
            row_of[column] = row_of[previous];
            column = previous;
        }
        row_of[column] = Some(start);
    }
    let mut column_of = vec![0; costs.len()];
    for (column, row) in row_of.into_iter().enumerate() {
        if let Some(row) = row {
            column_of[row] = column;
        }
    }
    column_of
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(costs: &[Vec<f64>], columns: &[usize]) -> f64 {
        columns.iter().zip(costs).map(|(at, row)| row[*at]).sum()
    }

    /// Tries every assignment.
    fn least(costs: &[Vec<f64>], taken: &mut Vec<usize>) -> f64 {
        let Some(row) = costs.get(taken.len()) else {
            return 0.0;
        };
        let mut best = f64::INFINITY;
        for (column, cost) in row.iter().enumerate() {
            if !taken.contains(&column) {
                taken.push(column);
                best = best.min(cost + least(costs, taken));
                taken.pop();
            }
        }
        best
    }

    #[test]
    fn no_other_assignment_costs_less() {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..2000 {
            let rows = random.usize(0..=5);
            let columns = rows + random.usize(0..=2);
            // Few values, so that many assignments cost the same.
            let costs: Vec<Vec<f64>> = (0..rows)
                .map(|_| (0..columns).map(|_| f64::from(random.u8(0..6))).collect())
                .collect();
            let columns = assign(&costs);
            let mut once = columns.clone();
            once.sort_unstable();
            once.dedup();
            assert_eq!(once.len(), rows, "{columns:?}");
            assert_eq!(
                sum(&costs, &columns),
                least(&costs, &mut Vec::new()),
                "{costs:?}"
            );
        }
    }

    #[test]
    fn the_nearest_pair_yields_where_the_sum_is_less() {
        let costs = [vec![1.0, 2.0], vec![2.0, 9.0]];
        assert_eq!(assign(&costs), [1, 0]);
    }
}
