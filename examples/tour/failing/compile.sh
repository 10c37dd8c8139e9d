# Stands for a compiler that finds a mistake.
echo "cc -O2 -c $1"
sleep 1
cat >&2 <<END
$1: In function 'main':
$1:3:10: error: 'x' undeclared (first use in this function)
    3 |   return x;
      |          ^
END
exit 1
