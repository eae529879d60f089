//! Back-fill: one night's share of encoding everything for the tower that is to take over.

use super::plan::{Backfill, EncodeTask, Plan, Planned};

/// Makes an ordinary plan of the next space one night's back-fill of at most `limit` tokens: without its build tasks
/// where texts will still be missing afterwards.
pub fn backfill_plan(planned: Planned, of: &str, limit: Option<u64>) -> Plan {
    let Planned { mut plan, texts, .. } = planned;
    let missing: Vec<u64> = plan.encode.iter().map(|task| task.shard.tokens_to_encode).collect();
    let tokens_missing = missing.iter().sum();
    let texts_missing: u64 = plan.encode.iter().map(|task| task.shard.texts_to_encode).sum();
    let limit = limit.unwrap_or(u64::MAX);
    let switches = tokens_missing <= limit;
    if !switches {
        let least = u64::from(plan.spec.tower.max_tokens());
        let shares = share_out(&missing, limit, plan.spec.encode.devices.len(), least);
        plan.encode = plan
            .encode
            .into_iter()
            .zip(shares)
            .filter(|(_, share)| *share > 0)
            .map(|(task, share)| shortened(task, share))
            .collect();
        plan.calibrate = None;
        plan.adapt = None;
        plan.build.clear();
    }
    plan.backfill = Some(Backfill {
        of: of.to_owned(),
        texts,
        texts_stored: texts - texts_missing.min(texts),
        tokens_missing,
        tokens_this_run: plan.encode.iter().map(|task| task.shard.tokens_to_encode).sum(),
        switches,
    });
    plan
}

fn shortened(mut task: EncodeTask, tokens: u64) -> EncodeTask {
    let shard = &mut task.shard;
    if tokens < shard.tokens_to_encode {
        let part = |whole: u64| {
            let share = u128::from(whole) * u128::from(tokens);
            (share / u128::from(shard.tokens_to_encode)) as u64
        };
        let (texts, padding) = (part(shard.texts_to_encode).max(1), part(shard.padding_avoided));
        (shard.texts_to_encode, shard.padding_avoided) = (texts, padding);
        (shard.texts_truncated, shard.tokens_to_encode) = (part(shard.texts_truncated), tokens);
        task.token_limit = Some(tokens);
        // Another share of the same texts is another task.
        task.id = format!("{}-{tokens}", task.id);
    }
    task
}

/// How many of each shard's missing tokens are encoded in this run: shard after shard, so that parts are large, but at
/// least as many shards as there are devices. A share that is not the whole rest is at least `least`, which the
/// longest text has; less is left for tomorrow.
fn share_out(missing: &[u64], limit: u64, devices: usize, least: u64) -> Vec<u64> {
    let mut shares = vec![0; missing.len()];
    let mut left = limit;
    let even = (limit / devices.max(1) as u64).max(least);
    for most in [even, limit] {
        for (share, &missing) in shares.iter_mut().zip(missing) {
            let more = missing.min(most).saturating_sub(*share).min(left);
            if *share + more == missing || *share + more >= least {
                *share += more;
                left -= more;
            }
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_spend_the_budget_on_few_shards_and_every_device() {
        assert_eq!(share_out(&[500, 500, 500, 500], 800, 1, 10), [500, 300, 0, 0]);
        assert_eq!(share_out(&[500, 500, 500, 500], 800, 4, 10), [200, 200, 200, 200]);
        assert_eq!(share_out(&[5, 5, 500, 500], 800, 4, 10), [5, 5, 500, 290]);
        assert_eq!(
            share_out(&[500, 500], 501, 1, 10),
            [500, 0],
            "1 token may be too few for a text"
        );
        assert_eq!(share_out(&[500, 1], 501, 1, 10), [500, 1], "the whole rest always fits");
        assert_eq!(share_out(&[500, 500, 500], 10, 3, 10), [10, 0, 0]);
        for (limit, devices) in [(10, 1), (64, 3), (999, 2), (1_200, 9)] {
            let missing = [400, 0, 7, 300, 900];
            let shares = share_out(&missing, limit, devices, 10);
            assert!(shares.iter().sum::<u64>() <= limit);
            assert!(shares.iter().sum::<u64>() > limit - 10, "{limit}: {shares:?}");
            assert!(shares.iter().zip(missing).all(|(&s, m)| s == m || s == 0 || s >= 10));
        }
    }
}
