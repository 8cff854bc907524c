"""Arguments that are wrong or at the edge of what is right, added to a command that is right without them.

They are separated by bars; words in capitals stand for what :data:`WORDS` says.
"""

from tests.fuzz.workspace import CHECKPOINT, MODEL, RAW

WORDS = {
    "LONGNAME": "n" * 260,
    "HUGENUMBER": "9" + "0" * 300,
    "DEEPLIST": "[" * 5000,
    "MODEL": MODEL,
    "CHECKPOINT": CHECKPOINT,
    "RAW": RAW,
}
ARGUMENTS = {
    "plan": """
        --student width=0 | --student width=-1 | --student width=nan | --student width=1e9 | --student blocks=0 |
        --student decoder=99999 | --student decoder=-1 | --student params=1e30 | --student stages=99 | --student = |
        --student width=0.5,width=0.5 | --student , | --student same, | --student external | --student LONGNAME |
        --student-arg n_stages=-1 | --student-arg n_stages=99999 | --student-arg conv_op=nope |
        --student-arg norm_op=os.system | --student-arg dropout_op=nope | --student-arg kernel_sizes=3 |
        --student-arg strides=[] | --student-arg features_per_stage=null | --student-arg features_per_stage=[-1,2,3] |
        --student-arg nonsense=1 | --student-arg = | --student-arg n_stages | --student-arg conv_bias=[] |
        --student-arg norm_op_kwargs=7 | --student-arg features_per_stage=[1000000000,8,8] |
        --student-arg n_stages=1e400 |
        --set schedule.num_epochs=-1 | --set schedule.num_epochs=nan | --set schedule=3 | --set nope=1 |
        --set schedule.seed=-1 | --set a.b.c.d=1 | --set = | --set teachers=3 | --set store.dtype=float64 |
        --set student.start=nope | --set ensemble.step_size=0 | --set schedule.num_epochs=DEEPLIST |
        --set __class__=1 | --set schedule.num_epochs=HUGENUMBER |
        -d 77 | -d Dataset900_Toy/../Dataset900_Toy | -d LONGNAME | -d HUGENUMBER | -d -1 | -c nope | -c LONGNAME |
        -p nope | -p LONGNAME | -p ../../x | -o LONGNAME | -o ../../../escape | -o a/b | -o . | -o é | -o a__b |
        -tr nope | -tr ../x | --recipe nope | --recipe ../../x | --batch_size 0 | --batch_size -1 | --batch_size nan |
        --patch_size 0 0 0 | --patch_size 16 | --patch_size 100000000 100000000 100000000 | --patch_size -1 1 1 |
        --latency-budget inf | --latency-budget nan | --latency-budget -1 | --latency-budget 1e-30 |
        --params nope | --params -1 | --params nan | --params inf | --rank nope | --role nope | --teachers nope |
        --teachers MODEL:0,7 | --teachers MODEL:../x | --teachers LONGNAME | --weights nowhere |
        --weights CHECKPOINT | --weights comparison/groups.csv | --inherit-from nope | --nope""",
    "distill": """
        -f x | -f 99 | -np 0 | -np -1 | --test nowhere nowhere | --test RAW/imagesUn nowhere | -o ../../../escape |
        -o LONGNAME | --teachers nope | --recipe nope | --student width=-1 | --set nope=1 | -c nope | -p nope |
        -d 77""",
    "export": """
        -m nowhere | -m LONGNAME | -f 9 | -f x | -f -1 | -chk nope | -chk ../../x | --precision int8 |
        --calibrate nowhere | --min-agreement 7 | --min-agreement nan | -o comparison | -o /dev/null/x | -o LONGNAME""",
    "softlabels": """
        -c nope | -p nope | -f 99 | -f x | -f -1 | --num_parts 0 | --num_parts -1 | --part_id 5 | --from nowhere |
        --from comparison | --from LONGNAME | -device nope | --combine nope | --num_parts HUGENUMBER""",
    "raters": """
        --raters raters/A | --raters raters/A raters/A | --raters raters/A nowhere | --raters comparison maps |
        --raters LONGNAME LONGNAME | --raters | --from maps | -p nnUNetPlans""",
    "unlabeled": """
        -i nowhere | -i LONGNAME | -i download/images | --test nowhere | -np 0 | -np -1 | -np x | --num_parts 0 |
        -c 2d | -c nope | -i comparison/groups.csv""",
    "predict": """
        --margin -1 | --margin nan | --margin inf | --margin 1e300 | --margin-mm inf | -step_size 0 | -step_size nan |
        -step_size 1e-9 | -i nowhere | -o /dev/null/x | -o comparison/groups.csv | -o LONGNAME | -o /proc/nowhere |
        --coarse nowhere | --fine MODEL:9 | --fine MODEL:all | --fine LONGNAME | -chk nope | -chk ../../x |
        -chk LONGNAME""",
    "evaluate": """
        -i nowhere | -r nowhere | -r comparison/images | -djfile nowhere | -djfile comparison/groups.csv |
        -o /dev/null/x | -o /proc/x | -o LONGNAME | -i LONGNAME | -np 0 | --nsd-tolerance x | --nsd-tolerance nan |
        --nsd-tolerance -1 | --nsd-tolerance liver= | --nsd-tolerance nope=1 | --nsd-tolerance inf |
        --nsd-tolerance 1e300""",
    "report": """
        --method x=nowhere | --method x | --method =x | --method LONGNAME=comparison/student | --metrics nope |
        --student nope | --ensemble student | --groups nowhere | --benchmark nowhere | --soft_labels comparison |
        --images nowhere | --model nope=x | --model student=MODEL:9 | --significance nope | -o /dev/null/x |
        -o /proc/x | -o comparison | -o LONGNAME | -np 0 | --nsd-tolerance -1 | --metrics |
        --groups comparison/dataset.json | --benchmark comparison/groups.csv""",
    "benchmark": """
        --runs 0 | --runs -1 | -npp -1 | -npp 0 | -n 0 | -n -1 | -i nowhere | -i comparison/student | -o /dev/null/x |
        -o /proc/x | -o LONGNAME | --model x=nowhere | --model x | --model x=MODEL:9 | --model LONGNAME=MODEL:9 |
        --model ../../../escape=nowhere | --no_mirroring nope | -chk nope""",
    "convert": """
        --names 99999999999=c | --names 1=a,1=b | --names = | --names , | --names 0=a | --names -1=a |
        --names 1=a,70000=b | --names HUGENUMBER=c | --names a,a | --names LONGNAME,b | --names background,a |
        --names ²=a,b=c | -d 0 | -d 1000 | -d -1 | -d x | --dataset_name LONGNAME | --dataset_name ../../../escape |
        --dataset_name a/b | --dataset_name a__b | --dataset_name é | --channels , | --channels a,b | -i nowhere |
        -i download | -l nowhere | -l download/images | -np 0 | -np -1 | -u download/labels | -t nowhere |
        --link nope | -i LONGNAME | -i comparison/groups.csv""",
    "demo": """
        --seed -1 | --seed nan | --seed 99999999999 | -o /dev/null/x | -o /proc/x | -o comparison/groups.csv |
        -o comparison | -device nope | -o LONGNAME""",
    "env": "--nope | nope",
}


def expand(text: str) -> list[str]:
    """Words of an argument."""
    for name, meaning in WORDS.items():
        text = text.replace(name, meaning)
    return text.split()
