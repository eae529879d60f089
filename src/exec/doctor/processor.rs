//! The processor and the devices.

use super::check::Check;
use crate::config::Pipeline;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel;
use crate::tower::{DeviceSpec, open_cuda};
use crate::types::Arithmetic;

pub(super) fn checks(pipeline: Option<&Pipeline>) -> Vec<Check> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernels = kernel::chosen();
    let named: Vec<String> = kernels.iter().map(|(what, by)| format!("{what} by {by}")).collect();
    let found = format!("{}, {cores} cores; {}", std::env::consts::ARCH, named.join(", "));
    let portable = cfg!(target_arch = "x86_64") && kernels[0].1 == "portable";
    let mut checks = vec![match portable {
        false => Check::fine("processor", found),
        true => Check::warning(
            "processor",
            found,
            "it has no AVX2, or a virtual machine hides it: encoding takes many times as long; choose a CPU type that passes it \
             through",
        ),
    }];
    match pipeline {
        Some(pipeline) => devices(pipeline, cores, &mut checks),
        None => checks.push(Check::fine("gpu support", gpu_support())),
    }
    checks
}

fn gpu_support() -> &'static str {
    match (cfg!(feature = "cuda"), cfg!(feature = "flash-attn")) {
        (false, _) => "this program was built without it; `make cuda` builds one that has it",
        (true, false) => "built in, without fused attention kernels",
        (true, true) => "built in, with fused attention kernels",
    }
}

fn devices(pipeline: &Pipeline, cores: usize, checks: &mut Vec<Check>) {
    let devices = match pipeline.encode.devices() {
        Ok(devices) => devices,
        Err(error) => return checks.push(Check::failed("devices", &error)),
    };
    let mut on_processor = false;
    for (name, device) in pipeline.encode.devices.iter().zip(devices) {
        let check = format!("device {name}");
        checks.push(match device {
            DeviceSpec::Cpu { threads } if threads > cores => Check::warning(
                check,
                format!("{threads} threads on {cores} cores"),
                format!(
                    "more threads than cores make it slower: encode.devices = [\"cpu:{cores}\"]"
                ),
            ),
            DeviceSpec::Cpu { threads } => {
                on_processor = true;
                let threads = if threads == 0 { cores } else { threads };
                Check::fine(check, format!("{threads} threads"))
            }
            DeviceSpec::Cuda(number) => match open_cuda(number) {
                Ok(_) => Check::fine(check, "opens; a run tries its kernels before it encodes"),
                Err(error) => Check::failed(check, &error),
            },
        });
    }
    let arithmetic = pipeline.tower.arithmetic;
    if let Some(error) = refuse_arithmetic(pipeline).err().filter(|_| !on_processor) {
        checks.push(Check::failed("arithmetic", &error));
    }
    if !on_processor {
        return;
    }
    if arithmetic == Arithmetic::F16 {
        checks.push(Check::wrong(
            "arithmetic",
            "f16, which processors do not compute in",
            "tower.arithmetic = \"f32\", \"bf16\" or \"int8\"",
            ErrorKind::Unsupported,
        ));
    } else if arithmetic == Arithmetic::Bf16 && !kernel::has_bf16() {
        checks.push(Check::warning(
            "arithmetic",
            "bf16, for which this processor has no instructions: slower than f32, and saves memory only",
            "tower.arithmetic = \"int8\" or \"f32\" is faster here; each is an embedding space of its own, so a change encodes \
             every note again",
        ));
    }
}

/// Refuses an arithmetic of `[tower]` that none of `encode.devices` can do. Nothing of this machine is asked.
///
/// # Errors
/// Unsupported.
pub fn refuse_arithmetic(pipeline: &Pipeline) -> Result<()> {
    let wanted = pipeline.tower.arithmetic;
    let can = |device: &DeviceSpec| match device {
        DeviceSpec::Cpu { .. } => wanted != Arithmetic::F16,
        DeviceSpec::Cuda(_) => wanted != Arithmetic::Int8,
    };
    if pipeline.encode.devices()?.iter().any(can) {
        return Ok(());
    }
    let (named, others) = match wanted {
        Arithmetic::Int8 => ("int8", "GPUs compute in f32, bf16 and f16"),
        _ => ("f16", "processors compute in f32, bf16 and int8"),
    };
    let wrong = format!("arithmetic = \"{named}\" is what none of encode.devices can do: {others}");
    pipeline.origins.placed(Err(Error::unsupported(wrong).of_key("tower.arithmetic")))
}
