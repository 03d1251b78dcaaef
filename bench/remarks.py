"""What a table cannot say: why a figure is where it is, and what was tried.

A remark gives reasons; figures stand in tables, or in a result file that the remark names.
"""

from __future__ import annotations

REMARKS: dict[str, str] = {
    "onnx": (
        "Most of it is eager PyTorch's own cost of a call, so it shrinks as batches grow. Graph "
        "optimisations help where there are convolutions and cost a little where attention is "
        "masked; onnxruntime's transformer fusions and opset 23's Attention were tried and left "
        "out: the first were no faster, the second refuses a mask that is broadcast."
    ),
    "island": (
        "Before it was loaded behind its opt-out, onnxruntime 1.32 made 20 attempts in one ONNX "
        "export, of its own accord: it looked up the address of whoever makes it."
    ),
    "bytes_to_accuracy": (
        "The goal is on what a node sends. With larger H top-k arrives with fewer bytes or not at "
        "all: what it leaves out of few, long deltas is too much. Both ways nothing is gained by "
        "it, since more rounds mean more bases in fp32; `rounds.broadcast` makes these smaller, "
        "and is not in this table. Most of these federations were computed on 16 cores of an Intel "
        "Xeon, with torch 2.11."
    ),
    "exchange": (
        "The goal is not reached. At first nearly all of a round was waiting and the SuperLink's "
        "work for each of hundreds of objects; segments now travel in bundles, both sides look for "
        "mail soon and then seldom, and the spool is written while the reply goes up. What is left "
        "is one Python process of Flower's, two replies taken one after the other, decoded deltas "
        "on disk, and the checkpoint, which is sealed before the next base goes out. That is worse "
        "the larger the model: of every 4 P bytes a node writes its base and its residual, the "
        "aggregator the checkpoint and what its broadcast owes, and all of them are hashed, while "
        "stock Flower writes nothing. Sums of squares by a cheaper way took a quarter off the "
        "processor time at 100M."
    ),
    "image_probe": (
        "Two seeds. Both goals on accuracy are reached, in half of the processor seconds that "
        "two cores have in ten minutes. LeJEPA is ahead of VICReg by every probe, and of BYOL's "
        "teacher by every probe but kNN, where it is a fifth of a point behind; by tokens it is "
        "ahead of the net that saw all labels, too. With `--steps 3500` and `--steps 5000` seed 0 "
        "had 88.9 on tokens both times, and 74.6 and 75.4 with ten labels a class."
    ),
    "image_recipe": (
        "Twelve settings, one seed: differences below half a point say little. Views have to "
        "differ in brightness, or that is what is learnt. Inverting the bright half of some views "
        "gained on every probe; a jitter of every image beside it gained on all but tokens, and is "
        "in `tiny_long` for that of few labels. Smaller batches, no flip and local views of four "
        "tokens gained nothing at this budget. One block in place of two has better tokens at "
        "equal time, and is not taken: it was not tried with the rest. What counts most is time. "
        "`tiny` itself is unchanged, as are the figures and digests that stand on it."
    ),
    "sensors": (
        "The gap is likely that labels choose what tells exercises apart, while our views (noise, "
        "other amplitudes, missing channels and pieces) call much of that noise: raw windows are "
        "ahead of every model's kNN, and random weights ahead of the trained in AUROC. None of "
        "these is a score that a plant could use."
    ),
    "text_languages": (
        "The goal is reached for languages on every seed, there ahead of all data pooled, too. "
        "Articles are a tie, near what random weights have: after 240 steps nothing has been "
        "learnt of meaning across languages. N-grams of the same bytes are ahead of every model "
        "in both: names and numbers are the same in many languages, and spelling tells most."
    ),
    "fewshot": (
        "The goal is reached on texts where the community's own unlabelled texts are learnt first, "
        "which one line of the TOML asks for: 13 points over the best from scratch, 8 over the "
        "solo model (the African member's, which has not seen these languages either), and 6 over "
        "random weights that learnt the same texts for as long. By `auto` alone it is missed by "
        "little over scratch and reached in the mean, but not by every seed, over solo. "
        "On pictures it is missed, and the data set the bound: a linear head reads clothes off "
        "random convolutions nearly as well as off trained ones, in the demo's table, too. What "
        "is trained from scratch has the same care as any build: it starts from the head that "
        "fits the random net, and takes any gain on held-out labels, while a build on the "
        "consensus takes a clear one alone. That rule, of one-sided 5 %, was made on seeds 0 to "
        "4, on which one and two "
        "standard errors were tried as well; without it full fine-tuning lost points on pictures "
        "at 10 labels a class, where it is left at the head now on four seeds of five. The table "
        "is of other seeds. On one seed an attentive head, continued pre-training on the region's "
        "unlabelled pictures and spreading the few labels over them by nearest neighbours were not "
        "ahead of the head either, nor was a net with ten times the steps, for it has seen clothes "
        "upright alone."
    ),
    "lora": (
        "Both goals are reached. By default a stem of convolutions is adapted alone, at rank 16: "
        "of one full fine-tuning the change of the convolutions alone had nearly all of the gain, "
        "that of everything else hardly any, and cut down to rank 4 it lost most of it, for unlike "
        "the trunk's it is spread over all ranks. Adapters begin as the leading directions of the "
        "first gradient (LoRA-One); begun at random they had less of the gain, in an earlier run "
        "of five of these seeds and on images of each region that neither the build nor the table "
        "looked at, by which this was chosen. Tried there, too, on one seed or five, and not "
        "ahead: training the norms beside them, other weight decay, half and twice the rate, and "
        "scaling the directions up."
    ),
    "federated_worldmodel": (
        "The first goal is reached in the mean and on three seeds of four; the second in the mean "
        "by nothing to spare, and with a wide spread: two seeds of four are behind pooled by more "
        "than it allows. "
        "Nobody has seen most of this world: each room's member has that room, the door's what "
        "lies around the door. In an older split the door's member had three fifths of the world, "
        "both rooms among them, and did two thirds of the journeys alone; there consensus and "
        "pooled were as far apart as here, and the best member could not be beaten twice over. "
        "What follows was found in that split. With a learning rate that rose "
        "over 5 % of the steps, not 20 %, seed 0 did far worse, with 600 steps and with "
        "900: the rooms, which no member but one has seen together, had come to lie on one "
        "another. The slower rise was chosen on seed 0, and on seeds that no table uses, by how "
        "far apart the rooms lay after some hundred steps. Tried once each beside it, without a "
        "script that is kept: moments of the present base, and of all members' samples of it, part "
        "the rooms further, those of a round before less, so that their being a round late is a "
        "likely reason for what is left; averaged states of AdamW help as well; a Gaussian for "
        "each member does not, one AdamW on the members' mean gradient hardly; distances in "
        "latents whitened by their covariance, in a plan's cost, made no difference."
    ),
    "world_schedules": (
        "Of the older split, whose door's member had three fifths of the world (see above)."
    ),
    "planning_success": (
        "Both goals are reached. The other planner has as many iterations of at least as many "
        "candidates, the same model, cost, bounds and start; what it lacks is noise that is "
        "coloured over the horizon and elites that are kept. That this is the reason is likely, "
        "and was not taken apart."
    ),
    "rebase": (
        "The whole delta under an aligned head is what is best here; either mask takes half of the "
        "delta's square norm and several points with it, and recovery, which starts from what was "
        "carried over, has found nothing better on held-out samples. Of a build that fits a head "
        "alone a rebase saves less of the time, for there is little to save."
    ),
    "merging": (
        "One scanner's head reads nothing of the other's pictures, and the mean of two such heads "
        "reads neither: joined heads fail where regions see the world differently. The merged "
        "trunks under each region's own head are no better than the release under it. The first "
        "try, of two regions further apart, was stopped when one seed showed as much, and the rows "
        "under own heads were added then."
    ),
    "head_transplant": (
        "The features of the next release are as good as before; their frame has moved. BatchNorm "
        "in the projector does not see where the mean of the trunk's features lies, so nothing "
        "holds it: on the one seed looked at, most of what was lost came back where the mean alone "
        "was put back. The later "
        "pair loses little as it is, since the learning rate has fallen by then."
    ),
    "kill_points": (
        "Two runs before this one, of older code, found violations of one kind: a process killed "
        "while it wrote a file of the home's own folder (issued.json, once in 207 points, then "
        "formats.json, four times in 222) left the unfinished file for good, since nobody swept "
        "there. Whoever starts on a home sweeps all of it now, and passes over what a living "
        "process is writing. In none of the runs did a round differ, or was anything lost or "
        "counted twice. The machine was shared with other work, which is what the standstills are "
        "long by."
    ),
    "soak": (
        "No violation, no round that stood still; the slope is missed here and reached in the "
        "longer run below, which is what a slope of an hour wants. Two runs before had 12.5 "
        "MB/h and 1.35 MB/h at worst; since the second the ledger's tree came down to a quarter "
        "and a release's table of influence from all rounds to one, and the slope is no smaller "
        "for it. What is measured is half a megabyte over 349 rounds, up and down by as much from "
        "one look to the next: so short a run does not resolve 1 MB/h. The goal is per hour, "
        "too, and a round took four seconds beside other work; at two seconds the same bytes "
        "a round are twice as much. Warm-up is three tenths of the rounds. What had grown, and is "
        "mended: a release read the whole ledger at once; garbage in cycles, of which Python looks "
        "through what is old once in thousands of rounds; what glibc keeps of freed memory in a "
        "heap for every few of the SuperLink's two dozen threads; and two numbers of each tensor "
        "that safetensors 0.8.0 gives to torch. The ServerApp's rounds and three nodes in one "
        "process leave no object in a hundred rounds: what is left, if anything, lies with "
        "Flower's connections or the allocators, and is not found."
    ),
    "worked_examples": (
        "The robot cell is where a consensus pays: it foresees next to nothing of a cell whose "
        "motors push askew, the cell's own 40 episodes alone make a poor model, and 300 steps that "
        "adapt the predictor alone make a good one, ahead of whatever else is moved. Points lost "
        "are of the old world, in which the same push does another thing: no predictor knows both, "
        "and rehearsing the old keeps most of it at the cost of the cell. What the model sees is "
        "not touched. Until its consensus was that of the demo, and not one of fewer steps of "
        "another recipe, this example lost to the solo model. The plant's faults are found better "
        "by any trained model than by raw windows, by who trained it hardly matters, and random "
        "convolutions, which need no training, are ahead of all. Before, the fault was an exercise "
        "like the six others, and everything was at chance. On clothes a head on the consensus is "
        "all that ten labels are good for, and the solo model is as good. On languages every "
        "method is ahead of the same from scratch, by more the less it trains; who has texts of "
        "these very languages, as the solo model has, is ahead of a consensus that has none of "
        "them, until the build is pre-trained on them, too; then it is about a tie. Byte n-grams "
        "need no model for this."
    ),
    "soak_alone": (
        "The goal is reached, beside other work on the same two cores. All rounds are those that "
        "one process computes, to the bit. At round 880 the ServerApp took 4 MB at one step, and "
        "did at the same round in a run that was broken off after 1,150: something that doubles "
        "once, most likely Python's table of interned strings, is not growth by the round, but "
        "was not looked into. A slope that is a median of slopes passes over one step."
    ),
    "planning_time": (
        "Six iterations and three repetitions, where the package's default is thirty; what is "
        "compared is the same in every iteration. Several problems at once have not run at this "
        "size. `study` is a residual MLP that no recipe has, and is not part of the goal."
    ),
    "byzantine": (
        "Three attacks get through the plain mean, those that multiply (× −10, IPM with ε = 10) "
        "and the boosted collapse; no rule lets any of them. What is refused before it reaches a "
        "rule is what is not finite or has collapsed. A boosted collapse takes six times the base "
        "away, so that the mean alone has nothing left: such a model need not look collapsed by "
        "itself, and is the rules' to hold. Krum takes one member's delta a round, which costs the "
        "same whatever is offered. One seed of a short federation: differences of a few tenths say "
        "nothing."
    ),
    "split_world": (
        "Measured while TwoRoom's wall had no thickness: at the wall a picture did not tell the "
        "side the dot was on. It now is as thick as it is drawn. And of a split whose door's "
        "member had three fifths of the world, as the remedies' below."
    ),
    "remedies": (
        "Cross-node SIGReg is worth four times in error, and on plain averaging nothing else comes "
        "near: a larger outer step is the most, a fifth. On top of it outer momentum and a larger "
        "step may gain a little, within what two seeds differ by; FedProx, the state of the inner "
        "optimizer averaged, and DiLoCo's outer setting are no better than nothing or worse. An "
        "anchor does not help whoever joins late. Unlike the table above this one is of TwoRoom "
        "with its wall as thick as it is drawn."
    ),
    "when_it_pays": (
        "On these images it hardly ever does. By the token probe the mean member gains between "
        "−0.2 and +0.6 points, and at every place but one some member loses, by up to 0.8; by "
        "nearest neighbours on all test images it is between −0.5 and +1.7. Neither more data, nor "
        "less skew, nor more compute moves it by more than its spread: random convolutions read "
        "clothes nearly as well as trained ones, so there is little that a member could lack. "
        "Fewer exchanges cost nothing here. Where members know different parts of a world it "
        "pays: the consensus has a fifth of the best member's error (*A world split over three "
        "members*), and makes more than twice the journeys of the best one (*A world model of "
        "many hands*)."
    ),
}
