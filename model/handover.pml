/* The decision of a move, for spin: who runs the container, whatever fails. docs/model.md tells how to read and run it.

   It says what docs/design/0010-handover.md says, one step for everything that can be cut off from what follows it: a
   write to disk or to etcd, tasks frozen, thawed or killed. Between any two steps a daemon may crash and come back.
   Options: -DARBITER, -DPOSTCOPY, and -DBROKEN=N for one of the mistakes below.

   Failures may come without number and in any order, until `calm`. From then on nothing new fails: what was lost,
   or is dead, stays so. "If failures stop" is therefore a property of every run, and the model is finite all the same. */

/* Mistakes, each of which breaks a property: model/check.py has the table of which one. */
#define THAW_UNWRITTEN 1        /* the source gives up waiting, and thaws before abort is in the register */
#define RUN_ON_TIMEOUT 2        /* the destination waits long enough, and runs */
#define TOLD_UNWRITTEN 3        /* commit is told before it is written */
#define ANSWER_BEFORE_DEAD 4    /* Abort is answered before the tasks are dead */
#define SOURCE_PUTS 5           /* the source writes abort without comparing */
#define DESTINATION_PUTS 6      /* the destination writes commit without comparing the lease or the decision */
#define JOURNAL_ROLLBACK 7      /* a source that comes back thaws by its own journal, without reading the register */
#define UNDECIDED_IS_ABORT 8    /* the destination takes "undecided" for abort */
#define FORWARD_AFTER_ABORT 9   /* the source kills its tasks for a commit though it has asked for an abort meanwhile */
#define RECOVERY_KILLS 10       /* a source that comes back and finds commit kills its tasks before it tells anybody */
#define DOUBT_THAWS 11          /* the source thaws though it does not know what it has written */
#define RAN_UNWRITTEN 12        /* the destination thaws first and journals `running` after it */
#define POSTCOPY_KILLS 13       /* post-copy: the source kills its tasks at the commit, as in other modes */
#define POSTCOPY_DECIDES 14     /* post-copy: the destination decides when the source's lease has ended */
#define NEVER_ASKS 15           /* the destination waits to be told, and never asks */
#define READ_ERROR_THAWS 16     /* a source that comes back takes an error of its journal for "not committed" */
#define RESTORE_UNWRITTEN 17    /* Restore is said before `asked` is journalled */
#define KILLS_UNDECIDED 18      /* the source's tasks die when the destination is parked, before the decision */
#define WAITS_FOR_EVER 19       /* the source never gives up waiting for the destination */
#define ABORT_WHEN_DEAD 20      /* a source that comes back asks for an abort though its own tasks are dead */

#ifndef BROKEN
#define BROKEN 0
#endif
#ifdef POSTCOPY
#define FOLLOWS true
#else
#define FOLLOWS false
#endif
/* What the destination writes itself when the source is gone: in post-copy the memory has gone with it. */
#if !defined(POSTCOPY) || BROKEN == POSTCOPY_DECIDES
#define OWN_DECISION COMMIT
#else
#define OWN_DECISION ABORT
#endif

mtype = { NONE, COMMIT, ABORT };                  /* a decision */
mtype = { ABSENT, RUNS, FROZEN, PARKED, DEAD };   /* a container */
mtype = { RESERVED, RUNNING, ABORTED };           /* the destination's journal; PARKED as well. RESERVED stands for all before */
mtype = { S_COPYING, S_FROZEN, S_SAYING, S_ASKED, S_COMMITTING, S_ABORTING, S_DOUBT, S_CONFIRMING, S_KILLING,
          S_TELLING, S_FILLING, S_WITHDRAWN, S_THAWING, S_ENDED, S_RECOVERING };
mtype = { D_READY, D_SAVING, D_COMMITTING, D_THAWING, D_NOTING_RUN, D_ABORTING, D_KILLING, D_NOTING_ABORT,
          D_RECOVERING };

/* What a crash of a daemon does not touch. */
mtype at_source = RUNS;          /* the container on the source */
mtype at_destination = ABSENT;   /* and its copy on the destination */
bool filled = !FOLLOWS;          /* no page is missing any more */
mtype decision = NONE;           /* the register: the source's journal, or the key in etcd */
mtype source_copy = NONE;        /* with an arbiter: what the source's journal says of it */
bool source_asked = false;       /* the source's journal: Restore has been said, or may have been */
mtype journal = RESERVED;        /* the destination's */
bool lease = false;              /* with an arbiter: the source's key; Restore comes after it */

/* What a crash forgets: where each daemon is. */
mtype source = S_COPYING;
bool certain = true;             /* since it began: nothing forgotten, and no abort asked for while in doubt */
mtype destination = D_READY;

/* A write without an answer may come into force later, whatever has become of who sent it, or never. Without an arbiter
   this is a journal that says "input/output error" and has the entry after the next start all the same. */
mtype source_late = NONE;
bool destination_late = false;

/* Messages. One of a kind is on its way or not: until `calm` it may be lost, and come again after it has come. */
bool m_restore, m_commit, m_abort, m_undecided;   /* to the destination; the last three also answer Decision */
bool m_parked, m_running, m_aborted, m_ask;       /* to the source; m_ask is Decision */

bool calm = false;
bool source_gone = false;        /* the host, for good, with its container. Of the two hosts one at most */
bool destination_gone = false;
bool has_run = false;            /* the copy on the destination has */

inline take(message) {
  if
  :: message = false
  :: !calm -> skip   /* it comes again */
  fi
}

inline write_once(what) {
  if
  :: decision == NONE -> decision = what
  :: else -> skip
  fi
}

/* The register says commit. Certain: nobody has ever been asked to kill the parked container. */
inline forward() {
  if
  :: certain -> source = S_KILLING
  :: else -> source = S_CONFIRMING
  fi
}

#if BROKEN == ABORT_WHEN_DEAD
#define may_ask_abort true
#else
#define may_ask_abort (at_source != DEAD)
#endif

#define source_at(place) (!source_gone && source == place)
#define destination_at(place) (!destination_gone && destination == place)

active proctype source_move() {
end:
  do
  :: atomic { !calm && !source_gone && source != S_RECOVERING ->
       source = S_RECOVERING;
       certain = (BROKEN == RECOVERY_KILLS)
     }

  /* It is cancelled, or a phase fails: Restore has not been said, nobody else could run it. */
  :: atomic { source_at(S_COPYING) -> m_abort = true; source = S_ENDED }
  :: atomic { source_at(S_COPYING) -> at_source = FROZEN; source = S_FROZEN }
  :: atomic { source_at(S_FROZEN) -> at_source = RUNS; m_abort = true; source = S_ENDED }
#if BROKEN == RESTORE_UNWRITTEN
  :: atomic { source_at(S_FROZEN) -> lease = true; m_restore = true; source = S_SAYING }
  :: atomic { source_at(S_SAYING) -> source_asked = true; source = S_ASKED }
#else
  :: atomic { source_at(S_FROZEN) -> lease = true; source_asked = true; source = S_SAYING }
  :: atomic { source_at(S_SAYING) -> m_restore = true; source = S_ASKED }
#endif

  :: atomic { source_at(S_ASKED) && m_parked -> take(m_parked);
#if BROKEN == KILLS_UNDECIDED
       at_source = DEAD;
#elif BROKEN == TOLD_UNWRITTEN
       m_commit = true;
#endif
       source = S_COMMITTING }
  /* Rule 5: its tasks are dead, or never were. */
  :: atomic { source_at(S_ASKED) && m_aborted -> take(m_aborted); source = S_WITHDRAWN }
#if BROKEN == THAW_UNWRITTEN
  :: atomic { source_at(S_ASKED) -> source = S_THAWING }
#elif BROKEN != WAITS_FOR_EVER
  :: atomic { source_at(S_ASKED) -> source = S_ABORTING }   /* cancelled, failed, or waited too long */
#endif

  :: atomic { source_at(S_COMMITTING) -> write_once(COMMIT);
       if
       :: decision == COMMIT -> forward()
       :: else -> source = S_WITHDRAWN
       fi }
  :: atomic { source_at(S_COMMITTING) && !calm ->
       if
       :: source_late == NONE -> source_late = COMMIT
       :: skip
       fi;
       source = S_DOUBT }

  :: atomic { source_at(S_ABORTING) ->
#if BROKEN == SOURCE_PUTS
       decision = ABORT;
#else
       write_once(ABORT);
#endif
       if
       :: decision == ABORT -> source = S_WITHDRAWN
       :: else -> forward()
       fi }
  :: atomic { source_at(S_ABORTING) && !calm ->
       if
       :: source_late == NONE -> source_late = ABORT
       :: skip
       fi;
       source = S_DOUBT }

  /* It does not know what the register says. It asks again, and the destination to end it meanwhile; but not where its own
     tasks are dead: then it has committed, whatever it can read. */
  :: atomic { source_at(S_DOUBT) -> source = S_ABORTING }
#if BROKEN != FORWARD_AFTER_ABORT
  :: atomic { source_at(S_DOUBT) && certain && m_parked -> take(m_parked); source = S_COMMITTING }
#endif
  :: atomic { source_at(S_DOUBT) && !m_abort && !m_aborted && !m_running && may_ask_abort ->
       m_abort = true;
#if BROKEN != FORWARD_AFTER_ABORT
       certain = false
#endif
     }
  :: atomic { source_at(S_DOUBT) && m_aborted -> take(m_aborted); source = S_WITHDRAWN }
  :: atomic { source_at(S_DOUBT) && m_running -> take(m_running); source = S_KILLING }
#if BROKEN == DOUBT_THAWS
  :: atomic { source_at(S_DOUBT) -> source = S_THAWING }
#endif

  /* It is committed, but the parked container may be dead by our own word. Frozen is safe until the destination says. */
  :: atomic { source_at(S_CONFIRMING) && !m_commit && !m_running && !m_aborted -> m_commit = true }
  :: atomic { source_at(S_CONFIRMING) && m_running -> take(m_running); source = S_KILLING }
  :: atomic { source_at(S_CONFIRMING) && m_aborted -> take(m_aborted); source = S_WITHDRAWN }

  :: atomic { source_at(S_KILLING) ->
       if
       :: source_copy = COMMIT
       :: !calm -> skip
       fi;
#if !defined(POSTCOPY) || BROKEN == POSTCOPY_KILLS
       at_source = DEAD;
#endif
       source = S_TELLING }
  :: atomic { source_at(S_TELLING) && !m_commit && !m_running -> m_commit = true }
  :: atomic { source_at(S_TELLING) && m_running -> take(m_running); source = (FOLLOWS -> S_FILLING : S_ENDED) }
  /* Fill, a question and its answer, is one step: it only passes on what stays true. */
  :: atomic { source_at(S_FILLING) && filled && destination_at(D_READY) -> at_source = DEAD; source = S_ENDED }

  /* Abort is in the register, or the destination has said that its tasks are dead. The latter counts even where it cannot be
     written down: who comes back to a commit asks the destination before anything dies. */
  :: atomic { source_at(S_WITHDRAWN) ->
       if
#ifdef ARBITER
       :: source_copy = ABORT
#else
       :: decision = ABORT
#endif
       :: !calm -> skip
       fi;
       source = S_THAWING }
  :: atomic { source_at(S_THAWING) ->
       if
       :: at_source == FROZEN -> at_source = RUNS
       :: else -> skip
       fi;
       m_abort = true;
       source = S_ENDED }

  /* The next daemon. Without an arbiter the first to write is also how one reads. */
#ifdef ARBITER
  :: atomic { source_at(S_RECOVERING) ->
       if
       :: source_copy == ABORT -> source = S_THAWING
       :: source_copy == COMMIT -> source = S_CONFIRMING
       :: source_copy == NONE && !source_asked -> source = S_THAWING
       :: source_copy == NONE && source_asked ->
#if BROKEN == JOURNAL_ROLLBACK
            source = S_THAWING
#else
            source = S_ABORTING
#endif
       fi }
#else
  :: atomic { source_at(S_RECOVERING) -> source = S_ABORTING }
#if BROKEN == READ_ERROR_THAWS
  :: atomic { source_at(S_RECOVERING) && !calm -> source = S_THAWING }
#endif
#endif
  od
}

/* The same daemon's other threads: a parked destination asks for the decision. */
#define move_known (source != S_RECOVERING && source != S_ENDED)

active proctype source_answers() {
end:
  do
  :: atomic { m_ask && !source_gone -> take(m_ask);
#ifdef ARBITER
       if
       :: source_copy == COMMIT -> m_commit = true
       :: source_copy == ABORT -> m_abort = true
       :: source_copy == NONE -> m_undecided = true
       fi
#else
       if
       :: decision == COMMIT -> m_commit = true
       :: decision == ABORT -> m_abort = true
       :: decision == NONE && move_known -> m_undecided = true
       :: decision == NONE && !move_known -> decision = ABORT; m_abort = true   /* written before it is said */
       :: !calm && source == S_DOUBT -> m_undecided = true                      /* its journal does not show it yet */
       fi
#endif
     }
  od
}

#define waits (destination_at(D_READY) && journal == PARKED)
/* Nothing else to go by: it asks the source as often as it looks at the register, and reads what has come. */
#define no_message !(m_restore || m_commit || m_abort || m_undecided)
#ifndef ARBITER
#define no_word no_message
#else
#define no_word (no_message && decision == NONE && lease)
#endif

active proctype destination_move() {
end:
  do
  :: atomic { !calm && !destination_gone && destination != D_RECOVERING -> destination = D_RECOVERING }

  :: atomic { destination_at(D_READY) && m_restore -> take(m_restore);
       if
       :: journal == RESERVED -> at_destination = PARKED; destination = D_SAVING
       :: journal == PARKED -> m_parked = true
       :: journal == ABORTED -> m_aborted = true
       :: journal == RUNNING -> skip
       fi }
  :: atomic { destination_at(D_SAVING) -> journal = PARKED; m_parked = true; destination = D_READY }
  /* The session has ended, or its time: before it is parked it may go by itself. */
  :: atomic { destination_at(D_READY) && journal == RESERVED -> journal = ABORTED }

  :: atomic { destination_at(D_READY) && m_commit -> take(m_commit);
       if
       :: journal == PARKED -> destination = D_COMMITTING
       :: journal == RUNNING -> m_running = true
       :: journal == ABORTED -> m_aborted = true
       :: journal == RESERVED -> skip
       fi }
  :: atomic { destination_at(D_READY) && m_abort -> take(m_abort);
       if
       :: journal == PARKED || journal == RESERVED ->
#if BROKEN == ANSWER_BEFORE_DEAD
            m_aborted = true;
#endif
            destination = D_ABORTING
       :: journal == RUNNING -> m_running = true
       :: journal == ABORTED -> m_aborted = true
       fi }
  :: atomic { destination_at(D_READY) && m_undecided -> take(m_undecided);
#if BROKEN == UNDECIDED_IS_ABORT
       if
       :: journal == PARKED -> destination = D_ABORTING
       :: else -> skip
       fi
#endif
     }
#if BROKEN != NEVER_ASKS
  :: atomic { waits && !m_ask && (!calm || no_word) -> m_ask = true }
#endif
#if BROKEN == RUN_ON_TIMEOUT
  :: atomic { waits -> destination = D_COMMITTING }
#endif

#ifdef ARBITER
  :: atomic { waits && decision == COMMIT -> destination = D_COMMITTING }
  :: atomic { waits && decision == ABORT -> destination = D_ABORTING }
#if BROKEN == DESTINATION_PUTS
  :: atomic { waits -> decision = COMMIT; destination = D_COMMITTING }
#endif
  /* One transaction: no decision, and no lease. What is written is read, and acted on, above. */
  :: atomic { waits && decision == NONE && !lease -> decision = OWN_DECISION }
  :: atomic { waits && !calm && !destination_late -> destination_late = true }
#endif

#if BROKEN == RAN_UNWRITTEN
  :: atomic { destination_at(D_COMMITTING) -> destination = D_THAWING }
  :: atomic { destination_at(D_NOTING_RUN) -> journal = RUNNING; destination = D_READY }
#else
  :: atomic { destination_at(D_COMMITTING) -> journal = RUNNING; destination = D_THAWING }
#endif
  :: atomic { destination_at(D_THAWING) ->
       if
       :: at_destination == PARKED -> at_destination = RUNS; has_run = true
       :: else -> skip
       fi;
       m_running = true;
       destination = (BROKEN == RAN_UNWRITTEN -> D_NOTING_RUN : D_READY) }

  /* Dead, journalled, and only then answered; which of the first two comes first does not matter. */
  :: atomic { destination_at(D_ABORTING) -> journal = ABORTED; destination = D_KILLING }
  :: atomic { destination_at(D_ABORTING) ->
       at_destination = (at_destination == ABSENT -> ABSENT : DEAD);
       destination = D_NOTING_ABORT }
  :: atomic { destination_at(D_KILLING) ->
       at_destination = (at_destination == ABSENT -> ABSENT : DEAD);
       m_aborted = true;
       destination = D_READY }
  :: atomic { destination_at(D_NOTING_ABORT) -> journal = ABORTED; m_aborted = true; destination = D_READY }

  /* The next daemon adopts what is parked, and ends what was not. */
  :: atomic { destination_at(D_RECOVERING) ->
       if
       :: journal == RESERVED -> destination = D_ABORTING
       :: journal == PARKED && at_destination == DEAD -> destination = D_NOTING_ABORT
       :: journal == PARKED && at_destination != DEAD -> destination = D_READY
       :: journal == RUNNING && at_destination == PARKED -> destination = D_THAWING
       :: journal == RUNNING && at_destination != PARKED -> destination = D_READY
       :: journal == ABORTED && at_destination == PARKED -> destination = D_KILLING
       :: journal == ABORTED && at_destination != PARKED -> destination = D_READY
       fi }

#ifdef POSTCOPY
  /* Pages come from the source's frozen tasks, as long as its daemon works on it; all of them is one step. Should they die
     before, this copy cannot go on. */
  :: atomic { destination_at(D_READY) && at_destination == RUNS && !filled && at_source == FROZEN && !source_gone &&
              (source == S_TELLING || source == S_FILLING) -> filled = true }
  :: atomic { destination_at(D_READY) && at_destination == RUNS && !filled && at_source == DEAD -> at_destination = DEAD }
#endif
  od
}


/* Everything else that happens. Time-outs are choices of the processes above. */
active proctype world() {
end:
  do
  :: atomic { !calm -> calm = true }
  /* Nothing is left to do here, but time goes on: spin's fairness needs runs without an end. */
  :: calm && source_late == NONE && !destination_late && !(lease && source_gone) -> skip
  :: atomic { !calm && m_restore -> m_restore = false }
  :: atomic { !calm && m_commit -> m_commit = false }
  :: atomic { !calm && m_abort -> m_abort = false }
  :: atomic { !calm && m_undecided -> m_undecided = false }
  :: atomic { !calm && m_parked -> m_parked = false }
  :: atomic { !calm && m_running -> m_running = false }
  :: atomic { !calm && m_aborted -> m_aborted = false }
  :: atomic { !calm && m_ask -> m_ask = false }

  :: atomic { source_late != NONE -> write_once(source_late); source_late = NONE }
  :: atomic { source_late != NONE -> source_late = NONE }
#ifdef ARBITER
  :: atomic { destination_late ->
       if
       :: decision == NONE && !lease -> decision = OWN_DECISION
       :: else -> skip
       fi;
       destination_late = false }
  :: atomic { destination_late -> destination_late = false }
  /* A source that cannot reach the arbiter loses it, as does one that is gone. */
  :: atomic { lease && (!calm || source_gone) -> lease = false }
#endif

  :: atomic { !calm && !source_gone && !destination_gone -> source_gone = true; at_source = DEAD }
  :: atomic { !calm && !source_gone && !destination_gone ->
       destination_gone = true;
       at_destination = (at_destination == ABSENT -> ABSENT : DEAD) }
  od
}

/* ---- properties */

#define two_run (at_source == RUNS && at_destination == RUNS)
/* What the copy on the destination has done, and told its clients, is not taken back. */
#define run_back (has_run && at_source == RUNS)
/* With both hosts there, one of them has a container that runs or can. */
#define copy_left (at_source == RUNS || at_source == FROZEN || \
                   (filled && (at_destination == PARKED || at_destination == RUNS)))
#define lost (!source_gone && !destination_gone && (!copy_left || (has_run && at_destination == DEAD)))
#define killed_early (at_source == DEAD && !source_gone && decision != COMMIT)

/* One copy runs, and nothing is left that waits. */
#define over_there (at_source == DEAD && at_destination == RUNS && filled)
#define over_here (at_source == RUNS && (at_destination == ABSENT || at_destination == DEAD))
#ifdef ARBITER
#define over_without_source (source_gone && at_destination != PARKED)
#else
#define over_without_source source_gone   /* what is parked waits for the operator */
#endif
#define over_without_destination (destination_gone && (at_source == RUNS || decision == COMMIT))
#define settled (over_there || over_here || over_without_source || over_without_destination)

#define undecided (calm && at_source == FROZEN && decision == NONE && source_late == NONE)
#define only_the_lease (source_gone && calm && waits && at_destination == PARKED && decision == NONE && \
                        source_late == NONE && !m_abort)
#define memory_gone (source_gone && decision == NONE && source_late == NONE)

ltl never_two { [] !two_run }
ltl never_back { [] !run_back }
ltl never_lost { [] !lost }
ltl thawable { [] !killed_early }
/* These four, in one search. */
ltl safe { [] !(two_run || run_back || lost || killed_early) }
ltl settles { (<> calm) -> (<> [] settled) }
ltl thaws { [] (undecided -> <> (at_source == RUNS || decision == COMMIT)) }
ltl survives { [] (only_the_lease -> <> (at_destination == RUNS)) }
ltl memory { [] (memory_gone -> [] !has_run) }

/* What must be possible, or the above would say little: each of these has to be violated. */
ltl cannot_arrive { [] !(over_there && calm) }
ltl cannot_return { [] !(source_asked && over_here && at_destination == DEAD && calm) }
ltl cannot_doubt { [] !(at_source == RUNS && journal == ABORTED && decision == COMMIT) }
ltl cannot_survive { [] !(source_gone && at_destination == RUNS && certain && source == S_ASKED) }
