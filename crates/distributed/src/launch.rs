//! Detects how this process was launched: the environment variables with which `mpiexec`, `torchrun` and Slurm tell each
//! process its rank.

use std::{env, fmt};

use crate::error::DistributedError;

/// The launcher of the processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Launcher {
    /// None: there is one process.
    Alone,
    /// `mpiexec`, or `srun` with an MPI process manager.
    Mpi,
    /// `torchrun`, or another launcher that sets its variables.
    Torchrun,
    /// `srun`.
    Slurm,
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Launcher::Alone => "alone",
            Launcher::Mpi => "mpiexec",
            Launcher::Torchrun => "torchrun",
            Launcher::Slurm => "Slurm",
        })
    }
}

/// The rank of this process and related values, as the launcher states them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The launcher that states them.
    pub launcher: Launcher,
    /// This process's rank, from 0.
    pub rank: usize,
    /// The number of processes.
    pub size: usize,
    /// This process's rank on its machine.
    pub local_rank: usize,
    /// The number of processes on its machine, if stated.
    pub local_size: Option<usize>,
    /// Where rank 0 can be reached (`MASTER_ADDR`, `MASTER_PORT`), if stated.
    pub master: Option<(String, u16)>,
}

/// The port of rank 0 by default: `torchrun`'s.
const PORT: u16 = 29500;

/// Variables of MPI process managers: of PMI (MPICH, Intel MPI and Slurm), PMIx, and Open MPI.
const MPI_RANKS: [(&str, Option<&str>); 3] =
    [("PMI_RANK", Some("PMI_SIZE")), ("OMPI_COMM_WORLD_RANK", Some("OMPI_COMM_WORLD_SIZE")), ("PMIX_RANK", None)];

impl Launch {
    /// Reads the variables of this process.
    ///
    /// # Errors
    /// If a variable is missing while others are set, or is not a number, or a rank is not below the number of ranks.
    pub fn from_env() -> Result<Launch, DistributedError> {
        Launch::read(&|name| env::var(name).ok())
    }

    fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Launch, DistributedError> {
        let wrong = |text: String| Err(DistributedError::Rendezvous(text));
        let number = |name: &str| -> Result<Option<usize>, DistributedError> {
            let Some(text) = variable(name).filter(|text| !text.is_empty()) else { return Ok(None) };
            match text.trim().parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(DistributedError::Rendezvous(format!("{name}={text} is not a number"))),
            }
        };
        let master = || -> Result<Option<(String, u16)>, DistributedError> {
            let port = match number("MASTER_PORT")? {
                None => PORT,
                Some(port) => match u16::try_from(port) {
                    Ok(port) => port,
                    Err(_) => return Err(DistributedError::Rendezvous(format!("MASTER_PORT={port} is not a port"))),
                },
            };
            Ok(variable("MASTER_ADDR").filter(|address| !address.is_empty()).map(|address| (address, port)))
        };
        let launch = if let Some(rank) = number("RANK")? {
            let Some(size) = number("WORLD_SIZE")? else {
                return wrong("RANK is set and WORLD_SIZE is not; torchrun sets both".into());
            };
            let local_rank = match number("LOCAL_RANK")? {
                Some(local) => local,
                None if size == 1 => 0,
                None => return wrong("RANK is set and LOCAL_RANK, the rank on this machine, is not".into()),
            };
            let local_size = number("LOCAL_WORLD_SIZE")?;
            Launch { launcher: Launcher::Torchrun, rank, size, local_rank, local_size, master: master()? }
        } else if let Some((rank, size)) = MPI_RANKS.into_iter().find(|(rank, _)| variable(rank).is_some()) {
            let size = size.map_or(Ok(None), number)?;
            let (rank, local) =
                (number(rank)?.unwrap_or(0), ["MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"]);
            let local_rank = local.into_iter().find_map(|name| number(name).transpose()).unwrap_or(Ok(0))?;
            let local_size = number("MPI_LOCALNRANKS")?;
            // MPI itself knows the size; PMIx has no variable for it.
            let size = size.unwrap_or(rank + 1);
            Launch { launcher: Launcher::Mpi, rank, size, local_rank, local_size, master: master()? }
        } else if let (Some(rank), Some(size), true) =
            (number("SLURM_PROCID")?, number("SLURM_NTASKS")?, variable("SLURM_STEP_ID").is_some())
        {
            let local_rank = number("SLURM_LOCALID")?.unwrap_or(0);
            let first = variable("SLURM_STEP_NODELIST").or_else(|| variable("SLURM_NODELIST"));
            let first = first.and_then(|list| first_host(&list)).map(|host| (host, slurm_port(number("SLURM_JOB_ID"))));
            let master = master()?.or(first);
            Launch { launcher: Launcher::Slurm, rank, size, local_rank, local_size: None, master }
        } else {
            Launch { launcher: Launcher::Alone, rank: 0, size: 1, local_rank: 0, local_size: Some(1), master: None }
        };
        if launch.rank >= launch.size {
            return wrong(format!("rank {} of {} processes; ranks count from 0", launch.rank, launch.size));
        }
        Ok(launch)
    }
}

/// A port that jobs on one machine do not share.
fn slurm_port(job: Result<Option<usize>, DistributedError>) -> u16 {
    let job = job.ok().flatten().unwrap_or(0);
    // The range of 15,000 ports that are neither privileged nor ephemeral.
    u16::try_from(15_000 + job % 15_000).unwrap_or(PORT)
}

/// The first host of a list in Slurm's format: `gpu[03-05,9],login` begins with `gpu03`.
fn first_host(list: &str) -> Option<String> {
    let end = list.find([',', '[']).unwrap_or(list.len());
    let (name, rest) = list.split_at(end);
    let number = match rest.strip_prefix('[') {
        Some(inside) => &inside[..inside.find([',', '-', ']'])?],
        None => "",
    };
    let host = format!("{name}{number}");
    (!host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Launch, DistributedError> {
        Launch::read(&|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn launchers_are_told_apart() {
        assert_eq!(read(&[]).unwrap().launcher, Launcher::Alone);
        let torchrun = [
            ("RANK", "3"),
            ("WORLD_SIZE", "4"),
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "2"),
            ("MASTER_ADDR", "node0"),
            ("MASTER_PORT", "1234"),
        ];
        let found = read(&torchrun).unwrap();
        assert_eq!((found.launcher, found.rank, found.size, found.local_rank), (Launcher::Torchrun, 3, 4, 1));
        assert_eq!((found.local_size, found.master), (Some(2), Some(("node0".to_owned(), 1234))));
        let hydra = [("PMI_RANK", "1"), ("PMI_SIZE", "2"), ("MPI_LOCALNRANKS", "2"), ("MPI_LOCALRANKID", "1")];
        let found = read(&hydra).unwrap();
        assert_eq!((found.launcher, found.rank, found.size, found.local_rank), (Launcher::Mpi, 1, 2, 1));
        let slurm = [
            ("SLURM_PROCID", "2"),
            ("SLURM_NTASKS", "4"),
            ("SLURM_LOCALID", "0"),
            ("SLURM_STEP_ID", "0"),
            ("SLURM_JOB_ID", "40001"),
            ("SLURM_STEP_NODELIST", "gpu[03-05,9]"),
        ];
        let found = read(&slurm).unwrap();
        assert_eq!((found.launcher, found.rank, found.size), (Launcher::Slurm, 2, 4));
        assert_eq!(found.master, Some(("gpu03".to_owned(), 25_001)));
        // Inside an allocation but without `srun`, a program is alone.
        assert_eq!(read(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")]).unwrap().launcher, Launcher::Alone);
        // `srun --mpi=pmi2` sets more variables.
        let both = [&slurm[..], &[("PMI_RANK", "2"), ("PMI_SIZE", "4")]].concat();
        assert_eq!(read(&both).unwrap().launcher, Launcher::Mpi);
    }

    #[test]
    fn incomplete_variables_are_errors_that_name_them() {
        for (variables, word) in [
            (&[("RANK", "0")][..], "WORLD_SIZE"),
            (&[("RANK", "0"), ("WORLD_SIZE", "2")], "LOCAL_RANK"),
            (&[("RANK", "x"), ("WORLD_SIZE", "2")], "RANK=x"),
            (&[("RANK", "2"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")], "rank 2 of 2"),
            (
                &[("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "99999")],
                "MASTER_PORT=99999",
            ),
        ] {
            let error = read(variables).unwrap_err().to_string();
            assert!(error.contains(word), "{word:?} is not in {error:?}");
        }
    }

    #[test]
    fn lists_of_hosts_begin_with_the_first() {
        for (list, host) in [("a", "a"), ("a,b", "a"), ("n[1-3]", "n1"), ("n[07,9]", "n07"), ("x[2]y", "x2")] {
            assert_eq!(first_host(list).as_deref(), Some(host));
        }
        assert_eq!(first_host(""), None);
    }
}
